"""Token lengths of what the prompts of one (model, template) consist of.

Lengths of prompts are sums of these, which is exact where segments provably join (`exact`), else an
estimate within a few tokens. Knows templates and tokenizers; refuses to know the grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness.core.errors import ModelError
from harness.core.prefixes import count_unique_tokens
from harness.core.task import Sample
from harness.planning.preparation import ModelSetup, Prepared
from harness.prompts.chat_messages import chat_text
from harness.prompts.rendering import start_of
from harness.prompts.templates import Template

Ints = npt.NDArray[np.int64]
CHECKED_JOINS, CHECKED_ANSWERS = 2000, 10
"""Queries, and answers before them, whose boundary is checked; replicas check every prompt."""


class SegmentLengths:
    """Token lengths of one (model, template).

    Args:
        prepared: the run.
        setup: the model.
        template: of the grid.

    Raises:
        ModelError: token ids that the model has no embedding for.
    """

    def __init__(self, prepared: Prepared, setup: ModelSetup, template: Template) -> None:
        tokenizer = setup.tokenizer
        samples = [tokenizer.literals.marked(sample) for sample in prepared.data.samples]
        self.setup, self.template = setup, template
        rows = [template.asked(sample)[1] for sample in samples]
        texts = list(dict.fromkeys(label for row in rows for label in row))
        label_ids = dict(zip(texts, tokenizer.whole_batch(texts), strict=True))
        self._check_known([tokenizer.bos, tokenizer.whole(template.prefix), *label_ids.values()])
        most = prepared.config.generation.max_new_tokens
        longest = most if template.thinks else max(map(len, label_ids.values()), default=most)
        self.longest_end = longest
        """Tokens of the longest label, or of the longest answer."""
        added = ([label_ids[label][:-1] for label in row] for row in rows)
        self.label_tails = sum(map(count_unique_tokens, added)) if prepared.method == "likelihood" else 0
        """Tokens that the labels of all samples add to what is computed."""
        self._demonstrations: dict[str, dict[int, int]] = {}
        self._bodies: dict[tuple[int, int], int] = {}
        if template.chat:
            self._measure_chat(samples)
            return
        texts = [template.asked(sample)[0] for sample in samples]
        ends, checked = self._ends(), texts[:CHECKED_JOINS]
        edges = {template.prefix, *ends} - {""}
        plain = all(tokenizer.joins(edge, text) for edge in edges for text in checked)
        # Where trailing white space merges with what follows, segments are cut before it.
        self.after_prefix = "" if plain else _trailing(template.prefix)
        tails = {_trailing(end) for end in ends}
        self.after_demonstration = "" if plain or len(tails) > 1 else tails.pop()
        self.trims = not plain
        known_start = bool(template.prefix) or not tokenizer.marks_start
        self.exact = (
            tokenizer.can_join
            and known_start
            and (
                plain
                or all(tokenizer.joins(edge.rstrip(), _trailing(edge) + text) for edge in edges for text in checked)
            )
        )
        self._take_queries(tokenizer.inner_batch([self.after_demonstration + text for text in texts]))
        same = self.after_prefix == self.after_demonstration
        self.zero_shot_queries = self.queries if same else self._count(self.after_prefix, texts)
        self.first_header = max(0, self.header - len(tokenizer.whole(self.after_demonstration)))
        self.start = len(start_of(template, tokenizer)) + len(
            tokenizer.whole(template.prefix.rstrip() if self.trims else template.prefix)
        )

    def _ends(self) -> set[str]:
        """How demonstrations end: label and separator; of generated answers, a few."""
        template = self.template
        if template.labels:
            return {label + end for label, end in zip(template.labels, template.separators, strict=True)}
        solved = map(self.setup.tokenizer.literals.marked, self.setup.draw.pool.samples[:CHECKED_ANSWERS])
        return {template.continuation(one) + template.separators[0] for one in solved}

    def _measure_chat(self, samples: Sequence[Sample]) -> None:
        """Lengths of chat prompts; what a demonstration adds is taken to be the same everywhere."""
        tokenizer = self.setup.tokenizer
        texts = [chat_text(self.template, [], sample, tokenizer) for sample in samples]
        self._take_queries(tokenizer.whole_batch(texts))
        self.zero_shot_queries = self.queries
        self.after_prefix = self.after_demonstration = ""
        self.exact = False
        self.first_header = self.header
        self.start = 0
        self._probe = samples[0]

    def _check_known(self, sequences: Sequence[list[int]]) -> None:
        """Refuse token ids that the model has no embedding for."""
        vocabulary, info = self.setup.info.vocabulary, self.setup.info
        largest = max((max(ids) for ids in sequences if ids), default=-1)
        if vocabulary is not None and largest >= vocabulary:
            raise ModelError(
                f"model '{info.name}' has {vocabulary} embeddings, but template '{self.template.name}' brings token id "
                f"{largest} ({self.setup.tokenizer.decode_token(largest)!r}): its tokenizer was extended and the model "
                "was not; resize its embeddings and train them, or take the tokenizer that belongs to it"
            )

    def _take_queries(self, ids: Sequence[list[int]]) -> None:
        self._check_known(ids)
        self.query_ids = [np.asarray(x, dtype=np.int32) for x in ids]
        self.queries = np.fromiter((len(x) for x in ids), dtype=np.int64, count=len(ids))
        self.header = _common_prefix(ids)

    def bodies(self, order: Ints, shard_size: int) -> int:
        """Unique tokens of the queries after their header, shard by shard."""
        key = (hash(order.tobytes()), shard_size)
        if key not in self._bodies:
            shards = range(0, len(order), shard_size)
            self._bodies[key] = sum(
                count_unique_tokens([self.query_ids[i] for i in order[first : first + shard_size]]) - self.header
                for first in shards
            )
        return self._bodies[key]

    def _demonstration_ids(self, solved: Sequence[Sample], before: str) -> list[int]:
        """Tokens that each demonstration adds to a prompt."""
        tokenizer, template = self.setup.tokenizer, self.template
        solved = [tokenizer.literals.marked(one) for one in solved]
        if template.chat:
            texts = [chat_text(template, [], self._probe, tokenizer)]
            texts += [chat_text(template, [one], self._probe, tokenizer) for one in solved]
            alone, *others = (len(ids) for ids in self._known_ids(texts))
            return [n - alone for n in others]
        rendered = [template.render_solved(one) for one in solved]
        texts = [before + (text.rstrip() if self.trims else text) for text in rendered]
        return [len(ids) for ids in self._known_ids(texts)]

    def _known_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids that the texts have inside a prompt."""
        ids = self.setup.tokenizer.inner_batch(texts)
        self._check_known(ids)
        return ids

    def _count(self, before: str, texts: Sequence[str]) -> Ints:
        ids = self.setup.tokenizer.inner_batch([before + text for text in texts])
        return np.fromiter((len(x) for x in ids), dtype=np.int64, count=len(ids))

    def sums(self, indices: Ints) -> Ints:
        """Tokens of each stream's demonstrations: `(n_streams, k)` pool indices to `(n_streams,)`."""
        later = self.demonstrations(indices, self.after_demonstration).sum(1)
        if self.after_prefix == self.after_demonstration or not indices.shape[1]:
            return np.asarray(later)
        first = indices[:, :1]
        moved = self.demonstrations(first, self.after_prefix) - self.demonstrations(first, self.after_demonstration)
        return np.asarray(later + moved[:, 0])

    def demonstrations(self, indices: Ints, before: str) -> Ints:
        """Lengths of demonstrations by pool index, any shape, with white space moved from before."""
        known = self._demonstrations.setdefault(before, {})
        unique = np.unique(indices)
        missing = [int(i) for i in unique if int(i) not in known]
        pool = self.setup.draw.pool.samples
        for start in range(0, len(missing), 10_000):
            part = missing[start : start + 10_000]
            known.update(zip(part, self._demonstration_ids([pool[i] for i in part], before), strict=True))
        table = np.fromiter((known[int(i)] for i in unique), dtype=np.int64, count=len(unique))
        return table[np.searchsorted(unique, indices)]


def _trailing(text: str) -> str:
    """The white space at the end of a text."""
    return text[len(text.rstrip()) :]


def _common_prefix(sequences: Sequence[list[int]]) -> int:
    first, last = min(sequences), max(sequences)
    size = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return min(len(first), len(last)) if size is None else size
