"""What a grid costs, before any model is loaded: prompts, tokens, context.

Lengths of prompts are sums of segment lengths, which is exact where segments provably join
(`exact`), else an estimate within a few tokens. The longest prompts are always tokenised whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.core.errors import ContextError, ModelError, TemplateError
from harness.core.escaping import one_line
from harness.core.prefixes import count_unique_tokens
from harness.core.task import Sample
from harness.planning.preparation import ModelSetup, Prepared, content_free
from harness.prompts.audit import check_labels
from harness.prompts.demonstrations import bank_set
from harness.prompts.rendering import chat_text, start_of
from harness.prompts.templates import Template

Ints = npt.NDArray[np.int64]
CHECKED_JOINS, CHECKED_ANSWERS = 2000, 10
"""Queries, and answers before them, whose boundary is checked; replicas check every prompt."""
NAMED = 5
"""Samples that a message names."""
CHECKED_WHOLE = 4
"""Longest prompts per (template, seed) that are rendered and tokenised whole."""


@dataclass(frozen=True)
class TemplateBudget:
    """One (model, template) over all K, seeds and samples."""

    model: str
    template: str
    prompts: int
    """Records: (cell, sample) pairs."""
    prompts_scored: int
    """Prompts that go through the model: K=0 counts once for all seeds."""
    tokens_one_pass: int
    """Tokens as one pass per scored prompt."""
    tokens_unique: int
    """Tokens when every shared token is computed once per shard."""
    longest_prompt: int
    """Tokens of the longest prompt with its longest label."""
    longest_by_k: dict[int, int]
    """The same per K, for K of the grid."""
    mean_demonstration: float
    longest_demonstration: int
    longest_query: int
    """Tokens of the longest prompt without demonstrations, its label or answer included."""
    exact: bool
    """Whether segment lengths provably add up for this tokenizer and template."""

    def demonstrations_that_fit(self, context_length: int | None, size: float) -> int | None:
        """How many demonstrations of a size (tokens) fit beside the longest query."""
        if context_length is None:
            return None
        return max(0, int((context_length - self.longest_query) // max(1.0, size)))


class _Lengths:
    """Token lengths of one (model, template)."""

    def __init__(self, prepared: Prepared, setup: ModelSetup, template: Template) -> None:
        tokenizer = setup.tokenizer
        samples = [tokenizer.literals.marked(sample) for sample in prepared.data.samples]
        self.setup, self.template = setup, template
        label_ids = [tokenizer.whole(label) for label in template.labels]
        self._check_known([tokenizer.bos, tokenizer.whole(template.prefix), *label_ids])
        labels = [len(ids) for ids in label_ids]
        self.longest_end = max(labels) if labels else prepared.config.generation.max_new_tokens
        """Tokens of the longest label, or of the longest answer."""
        self.label_tails = sum(n - 1 for n in labels) if prepared.method == "likelihood" else 0
        self._demonstrations: dict[str, dict[int, int]] = {}
        self._bodies: dict[tuple[int, int], int] = {}
        if template.chat:
            self._measure_chat(samples)
            return
        texts = [template.render_query(s.fields) for s in samples]
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
                f"model '{info.path}' has {vocabulary} embeddings, but template '{self.template.name}' brings token id "
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


@dataclass(frozen=True)
class _Streams:
    """Draws of one seed: `(n_streams, largest_k)` pool indices, and each sample's stream."""

    indices: Ints
    stream_of: Ints


def measure(prepared: Prepared, shard_size: int) -> list[TemplateBudget]:
    """Budgets of every (model, template), in grid order.

    Raises:
        ContextError: a prompt that does not fit, naming the K that would, or the sample that never does.
        ModelError: token ids that the model has no embedding for.
        TemplateError: prompts without a token; a label whose tokens begin another's.
    """
    budgets = []
    for setup in prepared.models:
        streams = {seed: _streams(prepared, setup, seed) for seed in prepared.config.grid.seeds}
        for name in prepared.config.grid.templates:
            lengths = _Lengths(prepared, setup, prepared.template(name))
            _check_empty(prepared, lengths)
            if prepared.method == "likelihood":
                renderer = prepared.renderer(setup, name, prepared.config.grid.seeds[0])
                check_labels(renderer, prepared.data.samples[0])
            budget = _measure_template(prepared, setup, lengths, streams, shard_size)
            _check_context(budget, setup, prepared, lengths, streams)
            budgets.append(budget)
    return budgets


def _streams(prepared: Prepared, setup: ModelSetup, seed: int) -> dict[int, _Streams]:
    """Streams per K for the lecture policy, else one entry for the largest K."""
    config, samples = prepared.config, prepared.data.samples
    if config.demos.policy == "lecture":
        table = prepared.lecture_table(setup, seed)
        everyone = np.arange(len(samples))
        return {
            k: _Streams(np.asarray([table[s.id, k] for s in samples], dtype=np.int64), everyone)
            for k in config.grid.k
            if k > 0
        }
    largest = prepared.largest_k
    if largest == 0:
        return {}
    draw = setup.draw
    if config.demos.policy == "bank":
        sets = np.asarray([bank_set(seed, s.id, config.demos.bank_size) for s in samples])
        used, stream_of = np.unique(sets, return_inverse=True)
        keys = [f"bank:{seed}:{index}" for index in used]
    else:
        keys = list(dict.fromkeys(draw.stream_key(seed, s.id) for s in samples))
        stream_of = np.zeros(len(samples), dtype=np.int64) if len(keys) == 1 else np.arange(len(samples))
    rows = [draw.ranking(key, largest) for key in keys]
    stream_of = np.array(stream_of)
    places: dict[str, set[int]] = {}
    for index, solved in enumerate(draw.pool.samples):
        places.setdefault(draw.pool.origin(solved), set()).add(index)
    for position, sample in enumerate(samples):
        own = places.get(draw.pool.origin(sample))
        if own and not own.isdisjoint(rows[stream_of[position]]):
            key = draw.stream_key(seed, sample.id)
            stream_of[position] = len(rows)
            rows.append(draw.ranking(key, largest, avoid=draw.pool.origin(sample)))
    return {largest: _Streams(np.asarray(rows, dtype=np.int64), stream_of)}


def _totals(lengths: _Lengths, streams: dict[int, _Streams], k: int) -> Ints:
    """Tokens of every sample's prompt at one K."""
    if k == 0:
        return np.asarray(lengths.start + lengths.zero_shot_queries)
    chosen = streams.get(k) or next(iter(streams.values()))
    return np.asarray(lengths.start + lengths.queries + lengths.sums(chosen.indices[:, :k])[chosen.stream_of])


def _measure_template(
    prepared: Prepared,
    setup: ModelSetup,
    lengths: _Lengths,
    streams: dict[int, dict[int, _Streams]],
    shard_size: int,
) -> TemplateBudget:
    grid, n = prepared.config.grid, len(prepared.data.samples)
    one_pass = unique = scored = 0
    longest_by_k: dict[int, int] = {}
    for place, seed in enumerate(grid.seeds):
        ks = [k for k in grid.k if k > 0 or place == 0]
        for k in ks:
            totals = _totals(lengths, streams[seed], k)
            longest_by_k[k] = max(longest_by_k.get(k, 0), int(totals.max()) + lengths.longest_end - 1)
            one_pass += int(totals.sum())
            scored += n
        order = np.asarray(prepared.shard_order(seed))
        unique += _unique(prepared, lengths, streams[seed], ks, order, shard_size)
    drawn = [s.indices for per_seed in streams.values() for s in per_seed.values()]
    sizes = (
        lengths.demonstrations(np.concatenate([i.reshape(-1) for i in drawn]), lengths.after_demonstration)
        if drawn
        else np.zeros(1)
    )
    return TemplateBudget(
        setup.info.path,
        lengths.template.name,
        prompts=n * len(grid.k) * len(grid.seeds),
        prompts_scored=scored,
        tokens_one_pass=one_pass,
        tokens_unique=unique,
        longest_prompt=max(longest_by_k.values()),
        longest_by_k=dict(sorted(longest_by_k.items())),
        mean_demonstration=float(sizes.mean()),
        longest_demonstration=int(sizes.max()),
        longest_query=lengths.start + int(lengths.queries.max()) + lengths.longest_end - 1,
        exact=lengths.exact,
    )


def _unique(
    prepared: Prepared,
    lengths: _Lengths,
    streams: dict[int, _Streams],
    ks: Sequence[int],
    order: Ints,
    shard_size: int,
) -> int:
    """Tokens of a seed's prefix trees; shards are cut from the samples in this order."""
    if not ks:
        return 0
    n = len(prepared.data.samples)
    shards = -(-n // shard_size)
    tails = lengths.label_tails * n * len(ks)
    total = lengths.start * shards + tails
    shown = [k for k in ks if k > 0]
    if not shown:
        return total + lengths.first_header * shards + lengths.bodies(order, shard_size) * len(ks)
    deepest = max(shown)
    trunks = streams if prepared.config.demos.policy == "lecture" else {deepest: next(iter(streams.values()))}
    rows, sizes = zip(*(_padded(lengths, trunks[k].indices[:, :k], deepest) for k in sorted(trunks)), strict=True)
    total += lengths.bodies(order, shard_size) * len(ks)
    for first in range(0, n, shard_size):
        samples = order[first : first + shard_size]
        used = [np.unique(trunks[k].stream_of[samples]) for k in sorted(trunks)]
        total += _trunk_tokens(
            lengths,
            np.concatenate([table[streams] for table, streams in zip(rows, used, strict=True)]),
            np.concatenate([table[streams] for table, streams in zip(sizes, used, strict=True)]),
        )
    return total


def _padded(lengths: _Lengths, indices: Ints, width: int) -> tuple[Ints, Ints]:
    """Pool indices padded with -1, and their tokens padded with 0, both `(n_streams, width)`."""
    padding = ((0, 0), (0, width - indices.shape[1]))
    sizes = lengths.demonstrations(indices, lengths.after_demonstration)
    sizes[:, 0] = lengths.demonstrations(indices[:, 0], lengths.after_prefix)
    return np.pad(indices, padding, constant_values=-1), np.pad(sizes, padding)


def _trunk_tokens(lengths: _Lengths, rows: Ints, sizes: Ints) -> int:
    """Unique tokens of one shard's demonstrations and of the query headers that follow them.

    Demonstrations begin as queries do: where trunks part, and where a query leaves a trunk, the
    header is computed once.
    """
    rows, first = np.unique(rows, axis=0, return_index=True)
    sizes = sizes[first]
    shared = np.logical_and.accumulate((rows[1:] == rows[:-1]) & (rows[1:] >= 0), axis=1)
    headers = np.where(shared[:, 0], lengths.header, lengths.first_header)
    return int(sizes.sum() - (sizes[1:] * shared).sum() + lengths.header * len(rows) - headers.sum())


def _check_empty(prepared: Prepared, lengths: _Lengths) -> None:
    """Refuse prompts without a token: nothing stands before their labels or answers."""
    if 0 not in prepared.config.grid.k or lengths.start:
        return
    template, tokenizer = lengths.template, lengths.setup.tokenizer
    samples = zip(prepared.data.samples, lengths.zero_shot_queries.tolist(), strict=True)
    empty = [sample.id for sample, n in samples if not n]
    extra = () if template.chat else content_free(prepared.config.scoring.calibration, prepared.data)
    ids = tokenizer.whole_batch([template.render_query(tokenizer.literals.marked(s).fields) for s in extra])
    empty += [repr(sample.id) for sample, found in zip(extra, ids, strict=True) if not found]
    if empty:
        more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
        named = ", ".join(one_line(name, 60) for name in empty[:NAMED])
        raise TemplateError(
            f"template '{template.name}' with K=0 gives prompts without a token for {len(empty)} samples "
            f"({named}{more}), so that nothing stands before the label or answer; give the template "
            "a word of its own, or take these samples out of the data"
        )


def _check_context(
    budget: TemplateBudget,
    setup: ModelSetup,
    prepared: Prepared,
    lengths: _Lengths,
    streams: dict[int, dict[int, _Streams]],
) -> None:
    limit = setup.info.context_length
    if limit is None:
        return
    longest = _longest_whole(prepared, setup, lengths, streams)
    if budget.exact:
        longest = max(longest, budget.longest_prompt)
    if longest <= limit:
        return
    where = f"template '{budget.template}' with K={prepared.largest_k}"
    alone = _totals(lengths, {}, 0) + lengths.longest_end - 1
    too_long = np.flatnonzero(alone > limit)
    # Where most are too long, the context is at fault, not a sample.
    if 0 < 2 * len(too_long) < len(alone):
        worst = prepared.data.samples[int(alone.argmax())]
        others = f" (so have {len(too_long) - 1:,} others)" if len(too_long) > 1 else ""
        raise ContextError(
            f"{where}: sample '{one_line(worst.id, 60)}' has {alone.max():,} tokens without any demonstration{others}, "
            f"but '{setup.info.path}' has a context of {limit}; take it out of the data file or shorten it, or use a "
            "model with a longer context"
        )
    fitting = _largest_fitting_k(prepared, lengths, streams, limit)
    remedy = f"K={fitting} would fit" if fitting is not None else "not even K=0 fits"
    raise ContextError(
        f"{where}: the longest prompt has {longest} tokens, "
        f"but '{setup.info.path}' has a context of {limit}; {remedy} (or lower demos.max_tokens)"
    )


def _longest_whole(
    prepared: Prepared, setup: ModelSetup, lengths: _Lengths, streams: dict[int, dict[int, _Streams]]
) -> int:
    """The longest prompts of the largest K, rendered and tokenised as replicas will."""
    longest = 0
    largest = prepared.largest_k
    for seed in prepared.config.grid.seeds[:1] if largest == 0 else prepared.config.grid.seeds:
        totals = _totals(lengths, streams[seed], largest)
        renderer = prepared.renderer(setup, lengths.template.name, seed)
        top = np.argsort(totals)[-CHECKED_WHOLE:]
        prompts = renderer.prompts([prepared.data.samples[i] for i in top], seed, [largest])
        longest = max(longest, *(len(p.ids) + lengths.longest_end - 1 for p in prompts))
    return longest


def _largest_fitting_k(
    prepared: Prepared, lengths: _Lengths, streams: dict[int, dict[int, _Streams]], limit: int
) -> int | None:
    def fits(k: int) -> bool:
        longest = max(int(_totals(lengths, streams[seed], k).max()) for seed in prepared.config.grid.seeds)
        return longest + lengths.longest_end - 1 <= limit

    candidates = (
        sorted(prepared.config.grid.k) if prepared.config.demos.policy == "lecture" else range(prepared.largest_k + 1)
    )
    return max((k for k in candidates if fits(k)), default=None)


def _trailing(text: str) -> str:
    """The white space at the end of a text."""
    return text[len(text.rstrip()) :]


def _common_prefix(sequences: Sequence[list[int]]) -> int:
    first, last = min(sequences), max(sequences)
    size = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return min(len(first), len(last)) if size is None else size
