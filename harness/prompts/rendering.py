"""Samples and demonstrations to the prompts that the engine sees.

One `Renderer` serves one template; the `prompts` verb, the plan and the replicas all render
through it, so what a user reads is what the model gets.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.errors import TemplateError
from harness.prefixes import common_length
from harness.prompts.demonstrations import Draw
from harness.prompts.templates import Chat, Template
from harness.prompts.tokenizing import PromptTokenizer
from harness.task import Sample

log = logging.getLogger(__name__)
PROBES = ("가", "1")
"""Texts that stand for a sample's, to see where the sample's own begins."""
MOST_BEGINNINGS = 4096


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of one (cell, sample)."""

    sample: Sample
    k: int
    segments: tuple[str, ...]
    """Prefix, demonstrations, query; of a chat the whole. The prompt's text is their concatenation."""
    ids: list[int]
    label_ids: tuple[tuple[int, ...], ...]
    """Token ids of each label as the prompt's continuation; none where answers are generated."""
    fork: int
    """How many of the first ids are not the sample's own: demonstrations, and what every query begins
    with. Depends on this prompt alone."""

    @property
    def text(self) -> str:
        """The whole text, without the tokens that the tokenizer adds by itself."""
        return "".join(self.segments)


class Renderer:
    """Renders the prompts of one template.

    Args:
        template: the wording.
        draw: which demonstrations a sample gets.
        largest_k: the grid's largest K; a stream is drawn once, to this depth.
        tokenizer: shared with other renderers, so that its memory is.
        lecture: for the `lecture` policy, sample id and K to pool indices.
    """

    def __init__(
        self,
        template: Template,
        draw: Draw,
        largest_k: int,
        tokenizer: PromptTokenizer,
        lecture: Mapping[tuple[str, int], Sequence[int]] | None = None,
    ) -> None:
        self.template = template
        self.draw = draw
        self.largest_k = largest_k
        self.tokenizer = tokenizer
        self.lecture = lecture
        self._demonstrations: dict[int, str] = {}
        self._rankings: dict[str, list[int]] = {}
        self._beginnings: dict[str, list[int]] = {}
        self._joined: dict[tuple[str, ...], bool] = {}

    @property
    def start(self) -> list[int]:
        """Ids before the text's own; a chat's text brings them itself."""
        return [] if self.template.chat else self.tokenizer.bos

    def demonstrations(self, sample: Sample, seed: int, k: int) -> Sequence[int]:
        """Pool indices of one prompt's demonstrations, in prompt order."""
        if k == 0:
            return ()
        if self.lecture is not None:
            return self.lecture[sample.id, k]
        key = self.draw.stream_key(seed, sample.id)
        ranking = self._rankings.get(key)
        if ranking is None:
            if self.draw.policy == "per_sample":
                self._rankings.clear()
            ranking = self._rankings[key] = self.draw.ranking(key, self.largest_k)
        pool = self.draw.pool
        own = pool.origin(sample)
        if any(pool.origin(pool.samples[index]) == own for index in ranking[:k]):
            return self.draw.ranking(key, k, avoid=own)
        return ranking[:k]

    def segments(self, sample: Sample, seed: int, k: int) -> tuple[str, ...]:
        """The prompt's segments: prefix (when there is one), demonstrations, query; a chat is one."""
        return self._segments(self.demonstrations(sample, seed, k), sample)

    def _segments(self, indices: Sequence[int], sample: Sample) -> tuple[str, ...]:
        if self.template.chat:
            return (chat_text(self.template, [self.draw.pool.samples[i] for i in indices], sample, self.tokenizer),)
        shown = [self._demonstration(index) for index in indices]
        start = [self.template.prefix] if self.template.prefix else []
        return (*start, *shown, self.template.render_query(sample.fields))

    def prompts(self, samples: Iterable[Sample], seed: int, ks: Sequence[int]) -> list[Prompt]:
        """All prompts of samples x ks, sample by sample.

        Raises:
            TemplateError: a label merges with the end of its context, or is empty in tokens.
        """
        keys, pieces = [], []
        for sample in samples:
            for k in ks:
                keys.append((sample, k, self.demonstrations(sample, seed, k)))
                pieces.append(self._segments(keys[-1][2], sample))
        ids, cuts = self._ids(pieces)
        labels = self._label_ids(pieces, ids)
        return [
            Prompt(sample, k, pieces[i], ids[i], labels[i], self._fork(pieces[i], cuts[i], ids[i], shown, sample))
            for i, (sample, k, shown) in enumerate(keys)
        ]

    def _fork(
        self,
        segments: tuple[str, ...],
        cut: tuple[str, ...] | None,
        ids: list[int],
        shown: Sequence[int],
        sample: Sample,
    ) -> int:
        if cut is None:
            before, own, lead = 0, ids, None
        else:
            own = self.tokenizer.segment_ids(cut[-1:])[cut[-1]]
            before, lead = len(ids) - len(own), cut[-1][: len(cut[-1]) - len(segments[-1])]
        beginning = self._beginning(lead, shown, sample)
        return min(before + common_length(own, beginning), len(ids) - 1)

    def _beginning(self, lead: str | None, shown: Sequence[int], sample: Sample) -> list[int]:
        """What prompts with the same demonstrations have in common, whatever their samples are.

        Args:
            lead: white space before the query, where that is tokenised by itself; None for the whole prompt.
            shown: pool indices of the demonstrations.
            sample: has the fields that samples have.
        """
        key = f"lead {lead}" if lead is not None else f"whole {shown}"
        if key not in self._beginnings:
            if len(self._beginnings) > MOST_BEGINNINGS:
                self._beginnings.clear()
            ids = []
            for text in PROBES:
                probe = replace(sample, fields=dict.fromkeys(sample.fields, text))
                if lead is not None:
                    ids.append(self.tokenizer.whole(lead + self.template.render_query(probe.fields)))
                else:
                    ids.append(self.start + self.tokenizer.whole("".join(self._segments(shown, probe))))
            self._beginnings[key] = ids[0][: common_length(*ids)]
        return self._beginnings[key]

    def _demonstration(self, index: int) -> str:
        text = self._demonstrations.get(index)
        if text is None:
            text = self._demonstrations[index] = self.template.render_solved(self.draw.pool.samples[index])
        return text

    def _ids(self, pieces: list[tuple[str, ...]]) -> tuple[list[list[int]], list[tuple[str, ...] | None]]:
        """Ids of each prompt, of its segments where they provably join, else of its text; and how it
        was cut for that.

        The proof looks at neighbours only; two prompts of every batch are checked whole as well.
        """
        tokenizer = self.tokenizer
        joined = [self.joinable(segments) for segments in pieces]
        texts = ["".join(segments) for segments, cut in zip(pieces, joined, strict=True) if cut is None]
        whole = iter(tokenizer.whole_batch(texts))
        known = tokenizer.segment_ids(segment for cut in joined if cut is not None for segment in cut)
        result = []
        for cut in joined:
            ids = list(self.start)
            if cut is None:
                ids += next(whole)
            else:
                for segment in cut:
                    ids += known[segment]
            result.append(ids)
        for i in {0, len(pieces) - 1} if pieces else ():
            if result[i] != self.start + tokenizer.whole("".join(pieces[i])):
                log.warning("segments of template '%s' do not tokenise as the whole text", self.template.name)
                tokenizer.distrust_segments()
                return self._ids(pieces)
        return result, joined

    def joinable(self, segments: tuple[str, ...]) -> tuple[str, ...] | None:
        """The text cut so that the ids of the pieces provably are those of the whole; None if no
        such cut is known.

        Tried are the segments themselves and, for tokenizers that merge a run of white space
        with what follows, the segments with their trailing white space moved to the next.
        """
        if not self.tokenizer.splits_first or self.template.chat:
            return None
        if self._all_join(segments):
            return segments
        moved, carried = [], ""
        for segment in segments[:-1]:
            kept = segment.rstrip()
            moved.append(carried + kept)
            carried = segment[len(kept) :]
        shifted = (*moved, carried + segments[-1])
        return shifted if self._all_join(shifted) else None

    def _all_join(self, segments: tuple[str, ...]) -> bool:
        stem = segments[:-1]
        if stem not in self._joined:
            if len(self._joined) > MOST_BEGINNINGS:
                self._joined.clear()
            self._joined[stem] = all(map(self.tokenizer.joins, stem[:-1], stem[1:]))
        return self._joined[stem] and (not stem or self.tokenizer.joins(stem[-1], segments[-1]))

    def _label_ids(self, pieces: list[tuple[str, ...]], ids: list[list[int]]) -> list[tuple[tuple[int, ...], ...]]:
        tokenizer, labels = self.tokenizer, self.template.labels
        by_segment = tuple(tuple(tokenizer.whole(label)) for label in labels)
        result: list[tuple[tuple[int, ...], ...]] = []
        for segments, context in zip(pieces, ids, strict=True):
            plain = bool(segments[-1]) and not self.template.chat and all(by_segment)
            if plain and all(tokenizer.joins(segments[-1], label) for label in labels):
                result.append(by_segment)
                continue
            text, found = "".join(segments), []
            for label in labels:
                full = self.start + tokenizer.whole(text + label)
                if full[: len(context)] != context or len(full) == len(context):
                    raise TemplateError(self._merge_message(segments[-1], label, context, full))
                found.append(tuple(full[len(context) :]))
            result.append(tuple(found))
        return result

    def _merge_message(self, query: str, label: str, context: list[int], full: list[int]) -> str:
        decode = self.tokenizer.decode_token
        at = next((i for i, (a, b) in enumerate(zip(context, full, strict=False)) if a != b), len(context) - 1)
        alone = [decode(t) for t in context[at:]]
        together = [decode(t) for t in full[at:]]
        return (
            f"template '{self.template.name}': the label {label!r} merges with the end of its context "
            f"{query[-12:]!r}: tokens {alone} become {together}; "
            "end the query without white space and begin the label with a space"
        )


def chat_text(template: Template, shown: Sequence[Sample], sample: Sample, tokenizer: PromptTokenizer) -> str:
    """A chat prompt: demonstrations as turns, or in the user's one message before the query.

    The prefix opens the first message of the user: not every chat template knows a system role.
    """
    query = template.render_query(sample.fields)
    if template.chat is Chat.MESSAGE:
        before = "".join(template.render_solved(solved) for solved in shown)
        messages = [{"role": "user", "content": before + query}]
    else:
        messages = []
        for solved in shown:
            messages.append({"role": "user", "content": template.render_query(solved.fields)})
            messages.append({"role": "assistant", "content": template.continuation(solved)})
        messages.append({"role": "user", "content": query})
    messages[0]["content"] = template.prefix + messages[0]["content"]
    return tokenizer.chat(messages)


def chunks(samples: Sequence[Sample], size: int) -> Iterable[Sequence[Sample]]:
    """Runs of at most `size` samples, in order."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]
