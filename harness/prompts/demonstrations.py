"""The pool of demonstrations, and what a policy draws from it for a sample.

Knows the pool's samples; refuses to know which stream serves whom: that is the policy's (`draws`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.core.errors import ConfigError
from harness.core.task import Sample
from harness.prompts.draws import Draw, LectureTable


@dataclass(frozen=True)
class Pool:
    """The demonstrations that may be drawn, in file order."""

    samples: tuple[Sample, ...]
    n_classes: int
    length_field: str

    def origin(self, sample: Sample) -> str:
        """What a sample must not share with its demonstrations: its source, else its text."""
        return sample.source or sample.fields[self.length_field]

    def check_size(self, largest_k: int, balanced: bool, spare: int) -> None:
        """Refuse a K that the pool cannot serve.

        Args:
            largest_k: the grid's largest K.
            balanced: whether classes alternate.
            spare: demonstrations that a sample may have to pass over (those of its own origin).

        Raises:
            ConfigError: naming the K and the pool's size.
        """
        if largest_k == 0:
            return
        if not balanced:
            usable = len(self.samples) - spare
            if largest_k > usable:
                raise ConfigError(
                    f"grid.k asks for {largest_k} demonstrations, but the pool has {len(self.samples)}"
                    f"{f' ({spare} may belong to the test sample)' if spare else ''}; "
                    "lower K, raise demos.max_tokens or give more training data"
                )
            return
        for label in range(self.n_classes):
            size = sum(sample.gold == label for sample in self.samples)
            need = -(-largest_k // self.n_classes)
            if need > size - spare:
                raise ConfigError(
                    f"grid.k={largest_k} with demos.balanced needs {need} demonstrations of class {label}, "
                    f"but the pool has {size}; lower K or raise demos.max_tokens"
                )

    @cached_property
    def by_class(self) -> list[list[int]]:
        """Places of the samples of each class."""
        groups: list[list[int]] = [[] for _ in range(self.n_classes)]
        for index, sample in enumerate(self.samples):
            groups[sample.gold].append(index)
        return groups

    def duplicates(self, samples: Sequence[Sample]) -> int:
        """The most pool rows that share one test sample's origin."""
        counts = Counter(self.origin(row) for row in self.samples)
        return max((counts[self.origin(s)] for s in samples), default=0)


@dataclass(frozen=True)
class PoolDraw:
    """A policy over a pool."""

    pool: Pool
    policy: Draw
    balanced: bool = False
    """Whether classes alternate; a sequential policy does not look at it."""

    def check_size(self, largest_k: int, samples: Sequence[Sample]) -> None:
        """Refuse a K that the pool cannot serve for some of these samples.

        Raises:
            ConfigError: naming the K and the pool's size.
        """
        if self.policy.is_sequential:
            self.pool.check_size(largest_k, balanced=False, spare=0)
        else:
            self.pool.check_size(largest_k, self.balanced, self.pool.duplicates(samples))

    def table(self, samples: Sequence[Sample], seed: int, ks: Sequence[int]) -> LectureTable | None:
        """All draws of a seed for these samples, where the policy is sequential; else None."""
        return self.policy.table(len(self.pool.samples), [sample.id for sample in samples], seed, ks)

    def ranking(self, key: str, count: int, avoid: str | None = None) -> list[int]:
        """The first `count` pool indices of a stream.

        Args:
            key: of the stream, from the policy's `stream_key`.
            count: how many; the first K of a longer ranking are the ranking of K.
            avoid: the test sample's origin, which is passed over.
        """
        rng = random.Random(key)
        classes = self.pool.by_class if self.balanced else None
        chosen: list[int] = []
        seen: set[int] = set()
        order: list[int] = []
        while len(chosen) < count:
            if classes is None:
                index = rng.randrange(len(self.pool.samples))
            else:
                if not order:
                    order = list(range(self.pool.n_classes))
                    rng.shuffle(order)
                members = classes[order[-1]]
                index = members[rng.randrange(len(members))]
            if index in seen:
                continue
            seen.add(index)
            if avoid is not None and self.pool.origin(self.pool.samples[index]) == avoid:
                continue
            if order:
                order.pop()
            chosen.append(index)
        return chosen
