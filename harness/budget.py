"""What a grid costs, before any model is loaded: prompts, tokens, context.

Lengths of prompts are sums of segment lengths, which is exact where segments provably join
(`exact`), else an estimate within a few tokens. The longest prompts are always tokenised whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.errors import ContextError
from harness.preparation import ModelSetup, Prepared
from harness.prompts.demonstrations import bank_set
from harness.prompts.templates import Template

Ints = npt.NDArray[np.int64]
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
        tokenizer, samples = setup.tokenizer, prepared.data.samples
        self.setup, self.template = setup, template
        texts = [template.render_query(s.fields) for s in samples]
        ends = {label + end for label, end in zip(template.labels, template.separators, strict=True)}
        checked = texts[:2000]
        plain = all(tokenizer.joins(edge, text) for edge in {template.prefix, *ends} for text in checked)
        # Where trailing white space merges with what follows, segments are cut before it.
        self.after_prefix = "" if plain else _trailing(template.prefix)
        tails = {_trailing(end) for end in ends}
        self.after_demonstration = "" if plain or len(tails) > 1 else tails.pop()
        self.trims = not plain
        self.exact = tokenizer.splits_first and (
            plain
            or all(
                tokenizer.joins(edge.rstrip(), _trailing(edge) + text)
                for edge in {template.prefix, *ends}
                for text in checked
            )
        )
        self.zero_shot_queries = self._count(self.after_prefix, texts)
        ids = tokenizer.whole_batch([self.after_demonstration + text for text in texts])
        self.queries = np.fromiter((len(x) for x in ids), dtype=np.int64, count=len(ids))
        self.header = _common_prefix(ids)
        self.first_header = max(0, self.header - len(tokenizer.whole(self.after_demonstration)))
        self.start = len(tokenizer.bos) + len(
            tokenizer.whole(template.prefix.rstrip() if self.trims else template.prefix)
        )
        labels = [len(tokenizer.whole(label)) for label in template.labels]
        self.label_tails = sum(n - 1 for n in labels)
        self.longest_label = max(labels)
        self._demonstrations: dict[str, dict[int, int]] = {}

    def _count(self, before: str, texts: Sequence[str]) -> Ints:
        ids = self.setup.tokenizer.whole_batch([before + text for text in texts])
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
            rendered = [self.template.render_demonstration(pool[i].fields, pool[i].gold) for i in part]
            texts = [before + (text.rstrip() if self.trims else text) for text in rendered]
            for index, ids in zip(part, self.setup.tokenizer.whole_batch(texts), strict=True):
                known[index] = len(ids)
        table = np.fromiter((known[int(i)] for i in unique), dtype=np.int64, count=len(unique))
        return table[np.searchsorted(unique, indices)]


@dataclass(frozen=True)
class _Streams:
    """Draws of one seed: `(n_streams, largest_k)` pool indices, and each sample's stream."""

    indices: Ints
    stream_of: Ints
    instead_of: tuple[int, ...] = ()
    """The last streams each serve a sample whose own text was drawn, in place of these."""


def measure(prepared: Prepared, shard_size: int) -> list[TemplateBudget]:
    """Budgets of every (model, template), in grid order.

    Raises:
        ContextError: a prompt that does not fit, naming the K that would.
    """
    budgets = []
    for setup in prepared.models:
        streams = {seed: _streams(prepared, setup, seed) for seed in prepared.config.grid.seeds}
        for name in prepared.config.grid.templates:
            lengths = _Lengths(prepared, setup, prepared.template(name))
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
    instead_of = []
    stream_of = np.array(stream_of)
    field, pool = draw.pool.length_field, draw.pool.samples
    places: dict[str, set[int]] = {}
    for index, solved in enumerate(pool):
        places.setdefault(solved.fields[field], set()).add(index)
    for position, sample in enumerate(samples):
        own = places.get(sample.fields[field])
        if own and not own.isdisjoint(rows[stream_of[position]]):
            key = draw.stream_key(seed, sample.id)
            instead_of.append(int(stream_of[position]))
            stream_of[position] = len(rows)
            rows.append(draw.ranking(key, largest, avoid=sample.fields[field]))
    return {largest: _Streams(np.asarray(rows, dtype=np.int64), stream_of, tuple(instead_of))}


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
            longest_by_k[k] = max(longest_by_k.get(k, 0), int(totals.max()) + lengths.longest_label - 1)
            one_pass += int(totals.sum())
            scored += n
        unique += _unique(prepared, lengths, streams[seed], ks, shard_size)
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
        longest_query=lengths.start + int(lengths.queries.max()) + lengths.longest_label - 1,
        exact=lengths.exact,
    )


def _unique(
    prepared: Prepared, lengths: _Lengths, streams: dict[int, _Streams], ks: Sequence[int], shard_size: int
) -> int:
    """Tokens of a seed's prefix trees: trunks once per shard, query headers once per branch."""
    if not ks:
        return 0
    n = len(prepared.data.samples)
    shards = -(-n // shard_size)
    tails = lengths.label_tails * n * len(ks)
    bodies = int((lengths.queries - lengths.header).sum()) * len(ks)
    start = lengths.start * shards
    shown = [k for k in ks if k > 0]
    # Demonstrations begin as queries do, so a branch shares its header with what follows the
    # trunk there; only the deepest K has its own, and trunks of other draws share their first.
    zero = lengths.first_header * shards if 0 in ks and not shown else 0
    if prepared.config.demos.policy == "lecture":
        sums = sum(int(lengths.sums(s.indices).sum()) for k, s in streams.items() if k in shown)
        return start + tails + bodies + sums + _headers(lengths, n * len(shown), shards)
    if not shown:
        return start + tails + bodies + zero
    chosen = next(iter(streams.values()))
    deepest = max(shown)
    trunks = lengths.sums(chosen.indices[:, :deepest])
    policy, shared = prepared.config.demos.policy, len(trunks) - len(chosen.instead_of)
    if policy == "per_sample":
        return start + tails + bodies + int(trunks[chosen.stream_of].sum()) + _headers(lengths, n, shards)
    own = 0
    for row, main in enumerate(chosen.instead_of, start=shared):
        same = int((chosen.indices[row, :deepest] == chosen.indices[main, :deepest]).argmin())
        parting = chosen.indices[row : row + 1, same:deepest]
        own += int(lengths.demonstrations(parting, lengths.after_demonstration).sum())
    # Samples of one set are neighbours; a shard's edge may cut one more set.
    copies = shards if policy == "fixed" else 1
    cuts = shards - 1 if policy == "bank" else 0
    trunk_tokens = int(trunks[:shared].sum()) * copies + cuts * int(trunks[:shared].mean()) + own
    return start + tails + bodies + trunk_tokens + _headers(lengths, shared * copies + cuts, shards)


def _headers(lengths: _Lengths, trunks: int, shards: int) -> int:
    """Header of each trunk's deepest query, less the first header that a shard's trunks share."""
    return lengths.header * trunks - lengths.first_header * max(0, trunks - shards)


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
    longest = max(budget.longest_prompt, _longest_whole(prepared, setup, lengths, streams))
    if longest <= limit:
        return
    fitting = _largest_fitting_k(prepared, lengths, streams, limit)
    remedy = f"K={fitting} would fit" if fitting is not None else "not even K=0 fits"
    raise ContextError(
        f"template '{budget.template}' with K={prepared.largest_k}: the longest prompt has {longest} tokens, "
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
        longest = max(longest, *(len(p.ids) + lengths.longest_label - 1 for p in prompts))
    return longest


def _largest_fitting_k(
    prepared: Prepared, lengths: _Lengths, streams: dict[int, dict[int, _Streams]], limit: int
) -> int | None:
    def fits(k: int) -> bool:
        longest = max(int(_totals(lengths, streams[seed], k).max()) for seed in prepared.config.grid.seeds)
        return longest + lengths.longest_label - 1 <= limit

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
