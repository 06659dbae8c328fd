"""Which demonstrations a prompt gets.

A draw is a function of (policy, seed, sample), never of order, shard or worker; `lecture` is
the exception by its definition, one sequential stream over the test positions. In the other
policies the set of K is the first K of one endless ranking of the pool, so sets are nested.

| policy | stream | meaning |
|---|---|---|
| fixed | one per seed | what a deployed prompt meets; shows the seed's variance |
| bank | `bank_size` per seed, chosen by a hash of the sample id | between the two |
| per_sample | one per (seed, sample) | averages the draw's variance away |
| lecture | `random.Random(seed).sample(pool, k)` for each test position in turn | the notebook's |
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.core.errors import ConfigError
from harness.core.task import Sample


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


@dataclass(frozen=True)
class Draw:
    """Draws demonstrations from a pool by one of the order-free policies."""

    pool: Pool
    policy: str
    balanced: bool
    bank_size: int

    def stream_key(self, seed: int, sample_id: str) -> str:
        """The identity of the random stream that serves a sample."""
        if self.policy == "fixed":
            return f"fixed:{seed}"
        if self.policy == "bank":
            return f"bank:{seed}:{bank_set(seed, sample_id, self.bank_size)}"
        return f"per_sample:{seed}:{sample_id}"

    def ranking(self, key: str, count: int, avoid: str | None = None) -> list[int]:
        """The first `count` pool indices of a stream.

        Args:
            key: from `stream_key`.
            count: how many; the first K of a longer ranking are the ranking of K.
            avoid: the test sample's origin, which is passed over.
        """
        rng = random.Random(key)
        classes = self._by_class if self.balanced else None
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

    @cached_property
    def _by_class(self) -> list[list[int]]:
        groups: list[list[int]] = [[] for _ in range(self.pool.n_classes)]
        for index, sample in enumerate(self.pool.samples):
            groups[sample.gold].append(index)
        return groups


def bank_set(seed: int, sample_id: str, bank_size: int) -> int:
    """Which of the seed's sets serves a sample: a hash, so that it never depends on order."""
    digest = hashlib.blake2b(f"{seed}:{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % bank_size


def lecture_draws(pool_size: int, n_samples: int, k: int, seed: int) -> list[list[int]]:
    """The notebook's draws for all test positions: `(n_samples, k)` pool indices.

    One stream seeded once; every position draws `k` distinct rows from the whole pool, its own
    text included. Source: the lecture notebook (see docs/lecture.md).
    """
    rng = random.Random(seed)
    population = range(pool_size)
    return [rng.sample(population, k) for _ in range(n_samples)]


def duplicates_in_pool(pool: Pool, samples: Sequence[Sample]) -> int:
    """The most pool rows that share one test sample's origin."""
    counts = Counter(pool.origin(row) for row in pool.samples)
    return max((counts[pool.origin(s)] for s in samples), default=0)
