"""Samples and demonstrations to the prompts that the engine sees.

One `Renderer` serves one template; the `prompts` verb, the plan and the replicas all render
through it, so what a user reads is what the model gets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain

from harness.core.prefixes import common_length
from harness.core.task import Sample
from harness.prompts.chat_messages import chat_messages, chat_text
from harness.prompts.demonstrations import PoolDraw
from harness.prompts.draws import LectureTable
from harness.prompts.label_ids import LabelIds, own_ids
from harness.prompts.literals import plain
from harness.prompts.prompt import Prompt
from harness.prompts.templates import Template
from harness.prompts.tokenizing import PromptTokenizer

log = logging.getLogger(__name__)
PROBES = ("가", "1")
"""Texts that stand for a sample's, to see where the sample's own begins."""
MOST_BEGINNINGS = 4096


class Renderer:
    """Renders the prompts of one template.

    Args:
        template: the wording.
        draw: which demonstrations a sample gets.
        largest_k: the grid's largest K; a stream is drawn once, to this depth.
        tokenizer: shared with other renderers, so that its memory is.
        lecture: all draws of a sequential policy.
    """

    def __init__(
        self,
        template: Template,
        draw: PoolDraw,
        largest_k: int,
        tokenizer: PromptTokenizer,
        lecture: LectureTable | None = None,
    ) -> None:
        self.template = template
        self.draw = draw
        self.largest_k = largest_k
        self.tokenizer = tokenizer
        self.lecture = lecture
        self._demonstrations: dict[int, str] = {}
        self._rankings: dict[str, list[int]] = {}
        self._beginnings: dict[tuple[object, ...], list[int]] = {}
        self._joined: dict[tuple[str, ...], bool] = {}
        self._shown: dict[tuple[int, ...], tuple[str, ...]] = {}
        self._own: tuple[Sample, set[int]] | None = None
        self._asked: tuple[Sample, tuple[str, tuple[str, ...]]] | None = None

    @cached_property
    def start(self) -> list[int]:
        """Ids before the text's own, see `start_of`."""
        return start_of(self.template, self.tokenizer)

    @cached_property
    def _labels(self) -> LabelIds:
        return LabelIds(self.template, self.tokenizer, len(self.start))

    def demonstrations(self, sample: Sample, seed: int, k: int) -> Sequence[int]:
        """Pool indices of one prompt's demonstrations, in prompt order."""
        if k == 0:
            return ()
        if self.lecture is not None:
            return self.lecture[sample.id, k]
        key = self.draw.policy.stream_key(seed, sample.id)
        pool = self.draw.pool
        if key not in self._rankings:
            if not self.draw.policy.shares_trunk:
                self._rankings.clear()
            self._rankings[key] = self.draw.ranking(key, self.largest_k)
        shown = self._rankings[key][:k]
        if self._own is None or self._own[0] is not sample:
            self._own = sample, pool.of_one_origin(sample)
        own = self._own[1]
        return self.draw.ranking(key, k, avoid=own) if own and not own.isdisjoint(shown) else shown

    def segments(self, sample: Sample, seed: int, k: int) -> tuple[str, ...]:
        """The prompt's segments: prefix (when there is one), demonstrations, query; a chat is one."""
        return self._segments(self.demonstrations(sample, seed, k), sample)

    def _segments(self, indices: Sequence[int], sample: Sample) -> tuple[str, ...]:
        if self.template.chat:
            asked = self.tokenizer.literals.marked(sample)
            return (chat_text(self.template, [self._solved(i) for i in indices], asked, self.tokenizer),)
        return (*self._before(tuple(indices)), self._ask(sample)[0])

    def _ask(self, sample: Sample) -> tuple[str, tuple[str, ...]]:
        """The query of a sample and its labels; those of the last one are remembered."""
        if self._asked is None or self._asked[0] is not sample:
            self._asked = sample, self.template.asked(self.tokenizer.literals.marked(sample))
        return self._asked[1]

    def _before(self, indices: tuple[int, ...]) -> tuple[str, ...]:
        """The segments before the query, which samples with the same demonstrations have in common."""
        if indices not in self._shown:
            if len(self._shown) > MOST_BEGINNINGS:
                self._shown.clear()
            start = [self.template.prefix] if self.template.prefix else []
            self._shown[indices] = (*start, *(self._demonstration(index) for index in indices))
        return self._shown[indices]

    def prompts(self, samples: Iterable[Sample], seed: int, ks: Sequence[int]) -> list[Prompt]:
        """All prompts of samples x ks, sample by sample.

        Raises:
            TemplateError: a label merges with the end of its context, or is empty in tokens.
        """
        keys, pieces, labels = [], [], []
        for sample in samples:
            for k in ks:
                keys.append((sample, k, self.demonstrations(sample, seed, k)))
                pieces.append(self._segments(keys[-1][2], sample))
                labels.append(self._ask(sample)[1])
        ids, cuts = self._ids(pieces)
        label_ids = self._labels.ids(pieces, ids, cuts, labels)
        own: dict[tuple[str, int, bool], int] = {}
        prompts = []
        for i, (sample, k, shown) in enumerate(keys):
            fork = self._fork(pieces[i], cuts[i], ids[i], shown, sample, own)
            texts = tuple(map(plain, labels[i]))
            template, messages = self.template, self._messages(shown, sample)
            prompts.append(
                Prompt(
                    sample, k, pieces[i], ids[i], label_ids[i], fork, texts, template.choices, messages, template.thinks
                )
            )  # fmt: skip
        return prompts

    def _messages(self, indices: Sequence[int], sample: Sample) -> tuple[dict[str, str], ...] | None:
        """The chat of a prompt, its texts as the data has them."""
        if not self.template.chat:
            return None
        shown = [self.draw.pool.samples[index] for index in indices]
        return tuple(chat_messages(self.template, shown, sample, self.tokenizer))

    def _fork(
        self,
        segments: tuple[str, ...],
        cut: tuple[str, ...] | None,
        ids: list[int],
        shown: Sequence[int],
        sample: Sample,
        known: dict[tuple[str, int, bool], int],
    ) -> int:
        """How many ids are not the sample's own.

        Args:
            segments, cut, ids, shown, sample: of the prompt.
            known: by how prompts end, how many ids are the sample's own; filled here.
        """
        if cut is not None and not self.template.chat:
            # Prompts of one sample mostly end alike.
            end = (cut[-1], len(segments[-1]), len(cut) > 1)
            if end not in known:
                own = own_ids(cut, self.template, self.tokenizer)
                moved = len(cut[-1]) - len(segments[-1])
                beginning = self._query_beginning(cut[-1][: max(0, moved)], max(0, -moved), len(cut) > 1, sample)
                known[end] = len(own) - common_length(own, beginning)
            return min(len(ids) - known[end], len(ids) - 1)
        return min(common_length(ids, self._whole_beginning(shown, sample)), len(ids) - 1)

    def _query_beginning(self, lead: str, left_out: int, inner: bool, sample: Sample) -> list[int]:
        """What queries have in common where they are tokenised by themselves.

        Args:
            lead: white space before the query.
            left_out: characters of the query that belong to what stands before.
            inner: whether something stands before the lead.
            sample: has the fields that samples have.
        """

        def ids(probe: Sample) -> list[int]:
            text = lead + self.template.render_query(probe)[left_out:]
            return self.tokenizer.inner_batch([text])[0] if inner else self.tokenizer.whole(text)

        return self._beginning((lead, left_out, inner), sample, ids)

    def _whole_beginning(self, shown: Sequence[int], sample: Sample) -> list[int]:
        """What prompts with the same demonstrations have in common, whatever their samples are."""

        def ids(probe: Sample) -> list[int]:
            return self.start + self.tokenizer.whole("".join(self._segments(shown, probe)))

        return self._beginning(tuple(shown), sample, ids)

    def _beginning(self, key: tuple[object, ...], sample: Sample, ids: Callable[[Sample], list[int]]) -> list[int]:
        if key not in self._beginnings:
            if len(self._beginnings) > MOST_BEGINNINGS:
                self._beginnings.clear()
            probes = [
                replace(sample, fields=dict.fromkeys(sample.fields, text), choices=(text,) * len(sample.choices))
                for text in PROBES
            ]
            found = [ids(probe) for probe in probes]
            self._beginnings[key] = found[0][: common_length(*found)]
        return self._beginnings[key]

    def _demonstration(self, index: int) -> str:
        text = self._demonstrations.get(index)
        if text is None:
            text = self._demonstrations[index] = self.template.render_solved(self._solved(index))
        return text

    def _solved(self, index: int) -> Sample:
        return self.tokenizer.literals.marked(self.draw.pool.samples[index])

    def _ids(self, pieces: list[tuple[str, ...]]) -> tuple[list[list[int]], list[tuple[str, ...] | None]]:
        """Ids of each prompt, of its segments where they provably join, else of its text; and how it
        was cut for that.

        The proof looks at neighbours only; two prompts of every batch are checked whole as well.
        """
        tokenizer, chat = self.tokenizer, bool(self.template.chat)
        joined = [tokenizer.turns(segments[0]) if chat else self.joinable(segments) for segments in pieces]
        texts = ["".join(segments) for segments, cut in zip(pieces, joined, strict=True) if cut is None]
        whole = iter(tokenizer.whole_batch(texts))
        cuts = [cut for cut in joined if cut is not None]
        # What stands before the last part is the same for many prompts: it is put together once.
        stems = dict.fromkeys(cut[:-1] for cut in cuts)
        first = tokenizer.segment_ids(segment for cut in cuts for segment in (cut if chat else cut[:1]))
        inner = chain((part for stem in stems for part in stem[1:]), (cut[-1] for cut in cuts if len(cut) > 1))
        later = first if chat else tokenizer.segment_ids(inner, inner=True)
        before: dict[tuple[str, ...], list[int]] = {}
        for stem in stems:
            before[stem] = [*self.start, *(first[stem[0]] if stem else ())]
            for segment in stem[1:]:
                before[stem] += later[segment]
        result = []
        for cut in joined:
            if cut is None:
                result.append(self.start + next(whole))
            else:
                result.append(before[cut[:-1]] + (later if len(cut) > 1 else first)[cut[-1]])
        for i in {0, len(pieces) - 1} if pieces else ():
            if result[i] != self.start + tokenizer.whole("".join(pieces[i])):
                log.warning("segments of template '%s' do not tokenise as the whole text", self.template.name)
                tokenizer.distrust_segments()
                return self._ids(pieces)
        return result, joined

    def joinable(self, segments: tuple[str, ...]) -> tuple[str, ...] | None:
        """The text cut so that the ids of the pieces provably are those of the whole; None if no
        such cut is known.

        Tried are the segments themselves; for tokenizers that merge a run of white space with what
        follows, the segments with their trailing white space moved to the next; and the segments
        with their beginnings moved to the one before, up to the first place that certainly splits.
        """
        if not self.tokenizer.can_join or self.template.chat:
            return None
        if self._all_join(segments):
            return segments
        moved, carried = [], ""
        for segment in segments[:-1]:
            kept = segment.rstrip()
            moved.append(carried + kept)
            carried = segment[len(kept) :]
        shifted = (*moved, carried + segments[-1])
        if self._all_join(shifted):
            return shifted
        places = [self.tokenizer.first_split(segment) for segment in segments[1:]]
        if not all(places):
            return None
        beginnings = (*(text[:place] for text, place in zip(segments[1:], places, strict=True)), "")
        parts = zip(segments, (0, *places), beginnings, strict=True)
        inside = tuple(text[start:] + beginning for text, start, beginning in parts)
        return inside if self._all_join(inside) else None

    def _all_join(self, segments: tuple[str, ...]) -> bool:
        stem = segments[:-1]
        if stem not in self._joined:
            if len(self._joined) > MOST_BEGINNINGS:
                self._joined.clear()
            self._joined[stem] = all(map(self.tokenizer.joins, stem[:-1], stem[1:]))
        return self._joined[stem] and (not stem or self.tokenizer.joins(stem[-1], segments[-1]))


def start_of(template: Template, tokenizer: PromptTokenizer) -> list[int]:
    """What the tokenizer adds before a template's prompts: nothing where their text begins with it.

    The text of a chat brings its own start.
    """
    if template.chat or not tokenizer.bos:
        return []
    begun = tokenizer.whole(template.prefix + template.render_query(template.probe(PROBES[0])))
    return [] if begun[: len(tokenizer.bos)] == tokenizer.bos else tokenizer.bos


def chunks(samples: Sequence[Sample], size: int) -> Iterable[Sequence[Sample]]:
    """Runs of at most `size` samples, in order."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]
