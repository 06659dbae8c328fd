"""Which demonstrations every sample of a grid gets, each set once, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.planning.preparation import ModelSetup, Prepared
from harness.planning.segment_lengths import Ints, SegmentLengths


@dataclass(frozen=True)
class Streams:
    """Draws of one seed: `(n_streams, largest_k)` pool indices, and each sample's stream."""

    indices: Ints
    stream_of: Ints


def streams_of(prepared: Prepared, setup: ModelSetup, seed: int) -> dict[int, Streams]:
    """Streams per K of a sequential policy, else one entry for the largest K."""
    samples, draw, largest = prepared.data.samples, setup.draw, prepared.largest_k
    table = prepared.lecture_table(setup, seed)
    if table is not None:
        everyone = np.arange(len(samples))
        return {
            k: Streams(np.asarray([table[s.id, k] for s in samples], dtype=np.int64), everyone)
            for k in prepared.config.grid.k
            if k > 0
        }
    if largest == 0:
        return {}
    of_sample = [(draw.policy.group(seed, s.id), draw.policy.stream_key(seed, s.id)) for s in samples]
    keys = dict.fromkeys(key for _, key in sorted(of_sample, key=lambda one: one[0]))
    places_of_keys = {key: place for place, key in enumerate(keys)}
    stream_of = np.asarray([places_of_keys[key] for _, key in of_sample])
    rows = [draw.ranking(key, largest) for key in keys]
    for position, sample in enumerate(samples):
        own = draw.pool.of_one_origin(sample)
        if own and not own.isdisjoint(rows[stream_of[position]]):
            key = draw.policy.stream_key(seed, sample.id)
            stream_of[position] = len(rows)
            rows.append(draw.ranking(key, largest, avoid=own))
    return {largest: Streams(np.asarray(rows, dtype=np.int64), stream_of)}


def sample_totals(lengths: SegmentLengths, streams: dict[int, Streams], k: int) -> Ints:
    """Tokens of every sample's prompt at one K."""
    if k == 0:
        return np.asarray(lengths.start + lengths.zero_shot_queries)
    chosen = streams.get(k) or next(iter(streams.values()))
    return np.asarray(lengths.start + lengths.queries + lengths.sums(chosen.indices[:, :k])[chosen.stream_of])
