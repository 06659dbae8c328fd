"""In which order a race takes the samples, and which it sets aside: a function of a seed and of samples' names.

Knows samples and clusters; refuses to know strategies and scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.config.schema import AUTO, RaceConfig
from harness.core.errors import ConfigError
from harness.core.hashing import content_hash
from harness.core.task import Sample

HELD_OUT = 500
"""Samples set aside, where there are enough."""
HELD_OUT_SHARE = 0.2
"""Most of the samples that are set aside unless the user says how many."""


@dataclass(frozen=True)
class RaceOrder:
    """The samples of a race."""

    steps: tuple[tuple[Sample, ...], ...]
    """Samples, or clusters taken as a whole, in random order."""
    holdout: tuple[Sample, ...]
    """Set aside before the race, for the winner alone."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(steps,) samples of each."""
        return np.array([len(step) for step in self.steps], dtype=np.int64)

    @property
    def samples(self) -> list[Sample]:
        """Those of the steps, in order."""
        return [sample for step in self.steps for sample in step]

    @cached_property
    def hash(self) -> str:
        """Of the samples' names in their order."""
        return content_hash([[s.id for s in step] for step in (*self.steps, self.holdout)])


def race_order(samples: Sequence[Sample], settings: RaceConfig) -> RaceOrder:
    """Samples in an order that depends on no other: a hash of the seed and the name of the sample or its cluster.

    Raises:
        ConfigError: more held out than half of the samples.
    """
    n_held_out = settings.holdout
    if n_held_out == AUTO:
        n_held_out = min(HELD_OUT, int(HELD_OUT_SHARE * len(samples)))
    if n_held_out > len(samples) / 2:
        raise ConfigError(
            f"race.holdout is {n_held_out:,}, but the task has {len(samples):,} samples; expected at most half of "
            "them, or raise task.limit"
        )
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        name = ("cluster", sample.cluster) if sample.cluster else ("sample", sample.id)
        groups.setdefault(name, []).append(sample)
    order = sorted(groups, key=lambda name: content_hash({"race": settings.seed, "of": list(name)}))
    held_out: list[Sample] = []
    steps: list[tuple[Sample, ...]] = []
    for name in order:
        rows = tuple(sorted(groups[name], key=lambda sample: sample.id))
        if len(held_out) < n_held_out:
            held_out += rows
        else:
            steps.append(rows)
    return RaceOrder(tuple(steps), tuple(held_out))


@dataclass(frozen=True)
class Cuts:
    """The shards of a race: each round's samples, and those held out, in pieces."""

    samples: tuple[tuple[Sample, ...], ...]
    """Of each shard."""
    rounds: tuple[range, ...]
    """Places in `samples` of each round's shards."""
    holdout: range
    """Places of those held out."""


def cut(order: RaceOrder, ends: Sequence[int], shard_size: int) -> Cuts:
    """Cut rounds into shards; a cluster may lie in two of a round.

    Args:
        order: of the race.
        ends: steps after which rounds end.
        shard_size: most samples of a shard.
    """
    shards: list[tuple[Sample, ...]] = []

    def pieces(rows: Sequence[Sample]) -> range:
        first = len(shards)
        shards.extend(tuple(rows[start : start + shard_size]) for start in range(0, len(rows), shard_size))
        return range(first, len(shards))

    starts = [0, *ends[:-1]]
    rounds = [pieces([s for step in order.steps[a:b] for s in step]) for a, b in zip(starts, ends, strict=True)]
    holdout = pieces(order.holdout)
    return Cuts(tuple(shards), tuple(rounds), holdout)
