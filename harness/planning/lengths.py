"""What a grid costs, before any model is loaded: prompts, tokens, context, per (model, template)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.planning.fitting import check_context, check_empty
from harness.planning.preparation import ModelSetup, Prepared
from harness.planning.segment_lengths import Ints, SegmentLengths
from harness.planning.streams import Streams, sample_totals, streams_of
from harness.prompts.audit import check_labels


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


def measure(prepared: Prepared, shard_size: int) -> list[TemplateBudget]:
    """Budgets of every (model, template), in grid order.

    Raises:
        ContextError: a prompt that does not fit, naming the K that would, or the sample that never does.
        ModelError: token ids that the model has no embedding for.
        TemplateError: prompts without a token; a label whose tokens begin another's.
    """
    budgets = []
    for setup in prepared.models:
        streams = {seed: streams_of(prepared, setup, seed) for seed in prepared.config.grid.seeds}
        for name in prepared.config.grid.templates:
            lengths = SegmentLengths(prepared, setup, prepared.template(name))
            check_empty(prepared, lengths)
            if prepared.method == "likelihood":
                renderer = prepared.renderer(setup, name, prepared.config.grid.seeds[0])
                check_labels(renderer, max(prepared.data.samples, key=lambda sample: len(sample.choices)))
            budget = _measure_template(prepared, setup, lengths, streams, shard_size)
            check_context(budget.longest_prompt if budget.exact else 0, setup, prepared, lengths, streams)
            budgets.append(budget)
    return budgets


def _measure_template(
    prepared: Prepared,
    setup: ModelSetup,
    lengths: SegmentLengths,
    streams: dict[int, dict[int, Streams]],
    shard_size: int,
) -> TemplateBudget:
    grid, n = prepared.config.grid, len(prepared.data.samples)
    one_pass = unique = scored = 0
    longest_by_k: dict[int, int] = {}
    for place, seed in enumerate(grid.seeds):
        ks = [k for k in grid.k if k > 0 or place == 0]
        for k in ks:
            totals = sample_totals(lengths, streams[seed], k)
            longest_by_k[k] = max(longest_by_k.get(k, 0), int(totals.max()) + lengths.longest_end - 1)
            one_pass += int(totals.sum())
            scored += n
        order = np.asarray(prepared.shard_order(seed))
        unique += _unique(lengths, streams[seed], ks, order, shard_size)
    drawn = [s.indices for per_seed in streams.values() for s in per_seed.values()]
    sizes = (
        lengths.demonstrations(np.concatenate([i.reshape(-1) for i in drawn]), lengths.after_demonstration)
        if drawn
        else np.zeros(1)
    )
    return TemplateBudget(
        setup.name,
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
    lengths: SegmentLengths, streams: dict[int, Streams], ks: Sequence[int], order: Ints, shard_size: int
) -> int:
    """Tokens of a seed's prefix trees; shards are cut from the samples in this order."""
    if not ks:
        return 0
    n = len(order)
    shards = -(-n // shard_size)
    tails = lengths.label_tails * len(ks)
    total = lengths.start * shards + tails
    shown = [k for k in ks if k > 0]
    if not shown:
        return total + lengths.first_header * shards + lengths.bodies(order, shard_size) * len(ks)
    deepest = max(shown)
    rows, sizes = zip(*(_padded(lengths, streams[k].indices[:, :k], deepest) for k in sorted(streams)), strict=True)
    total += lengths.bodies(order, shard_size) * len(ks)
    for first in range(0, n, shard_size):
        samples = order[first : first + shard_size]
        used = [np.unique(streams[k].stream_of[samples]) for k in sorted(streams)]
        total += _trunk_tokens(
            lengths,
            np.concatenate([table[shown] for table, shown in zip(rows, used, strict=True)]),
            np.concatenate([table[shown] for table, shown in zip(sizes, used, strict=True)]),
        )
    return total


def _padded(lengths: SegmentLengths, indices: Ints, width: int) -> tuple[Ints, Ints]:
    """Pool indices padded with -1, and their tokens padded with 0, both `(n_streams, width)`."""
    padding = ((0, 0), (0, width - indices.shape[1]))
    sizes = lengths.demonstrations(indices, lengths.after_demonstration)
    sizes[:, 0] = lengths.demonstrations(indices[:, 0], lengths.after_prefix)
    return np.pad(indices, padding, constant_values=-1), np.pad(sizes, padding)


def _trunk_tokens(lengths: SegmentLengths, rows: Ints, sizes: Ints) -> int:
    """Unique tokens of one shard's demonstrations and of the query headers that follow them.

    Demonstrations begin as queries do: where trunks part, and where a query leaves a trunk, the
    header is computed once.
    """
    rows, first = np.unique(rows, axis=0, return_index=True)
    sizes = sizes[first]
    shared = np.logical_and.accumulate((rows[1:] == rows[:-1]) & (rows[1:] >= 0), axis=1)
    headers = np.where(shared[:, 0], lengths.header, lengths.first_header)
    return int(sizes.sum() - (sizes[1:] * shared).sum() + lengths.header * len(rows) - headers.sum())
