"""The pool of demonstrations, and what a policy draws from it for a sample.

Knows the pool's samples; refuses to know which stream serves whom: that is the policy's (`draws`).
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.core.errors import ConfigError
from harness.core.task import Sample
from harness.prompts.draws import Draw, LectureTable


@dataclass(frozen=True)
class Pool:
    """The demonstrations that may be drawn, in file order."""

    samples: tuple[Sample, ...]
    n_classes: int
    length_field: str

    def origins(self, sample: Sample) -> frozenset[tuple[str, str]]:
        """What a sample must not share with its demonstrations: its text, and its source where it has one."""
        text = ("text", sample.fields[self.length_field].strip())
        return frozenset((text, ("source", sample.source))) if sample.source else frozenset((text,))

    def __getstate__(self) -> dict[str, Any]:
        """Without what every process can work out for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "by_origin"}

    @cached_property
    def by_origin(self) -> dict[tuple[str, str], set[int]]:
        """Places of the samples of each origin."""
        found: dict[tuple[str, str], set[int]] = {}
        for index, sample in enumerate(self.samples):
            for origin in self.origins(sample):
                found.setdefault(origin, set()).add(index)
        return found

    def of_one_origin(self, sample: Sample) -> set[int]:
        """Places of the samples that share an origin with a given one."""
        return set().union(*(self.by_origin.get(origin, ()) for origin in self.origins(sample)))

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
        """The most pool rows that share an origin with one test sample."""
        return max((len(self.of_one_origin(sample)) for sample in samples), default=0)


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

    def ranking(self, key: str, count: int, avoid: Collection[int] = ()) -> list[int]:
        """The first `count` pool indices of a stream.

        Args:
            key: of the stream, from the policy's `stream_key`.
            count: how many; the first K of a longer ranking are the ranking of K.
            avoid: places that are passed over, those that share an origin with the test sample.
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
            if index in avoid:
                continue
            if order:
                order.pop()
            chosen.append(index)
        return chosen
