"""Which demonstrations a prompt gets: the policies, as objects of one protocol.

A draw is a function of (policy, seed, sample), never of order, shard or worker; `lecture` is
the exception by its definition, one sequential stream over the test positions. In the other
policies the set of K is the first K of one endless ranking of the pool, so sets are nested.

| policy | stream | meaning |
|---|---|---|
| fixed | one per seed | what a deployed prompt meets; shows the seed's variance |
| bank | `bank_size` per seed, chosen by a hash of the sample id | between the two |
| per_sample | one per (seed, sample) | averages the draw's variance away |
| lecture | `random.Random(seed).sample(pool, k)` for each test position in turn | the notebook's |

Knows seeds and sample ids; refuses to know the pool's texts (`demonstrations`).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from harness.config.schema import DemosConfig

LectureTable = Mapping[tuple[str, int], Sequence[int]]
"""The lecture policy's draws of one seed: (sample id, K) to pool indices."""


class Draw(Protocol):
    """One policy."""

    shares_trunk: ClassVar[bool]
    """Whether many samples have the same demonstrations, so that a shard computes them once."""
    serves_all_alike: ClassVar[bool]
    """Whether all samples of a cell have the same demonstrations, so that calibration's inputs stand for the cell."""
    groups_samples: ClassVar[bool]
    """Whether samples are ordered by `group` before they are cut into shards."""
    is_sequential: ClassVar[bool]
    """Whether one stream serves the test positions in turn: then the test order decides the draws, sets of
    different K have nothing in common, classes are not balanced and a sample may be shown its own text."""

    def stream_key(self, seed: int, sample_id: str) -> str:
        """The identity of the random stream that serves a sample."""

    def group(self, seed: int, sample_id: str) -> int:
        """Samples of one group should meet in one shard."""

    def table(self, pool_size: int, sample_ids: Sequence[str], seed: int, ks: Sequence[int]) -> LectureTable | None:
        """All draws of a sequential stream; None where `stream_key` says enough.

        Args:
            pool_size: rows of the pool.
            sample_ids: of all test positions in turn.
            seed: of the stream.
            ks: of the grid; K=0 draws nothing.
        """


@dataclass(frozen=True)
class FixedDraw:
    """One set per seed."""

    shares_trunk: ClassVar = True
    serves_all_alike: ClassVar = True
    groups_samples: ClassVar = False
    is_sequential: ClassVar = False

    def stream_key(self, seed: int, sample_id: str) -> str:
        """One stream per seed."""
        return f"fixed:{seed}"

    def group(self, seed: int, sample_id: str) -> int:
        """One group: every order of samples is as good."""
        return 0

    def table(self, pool_size: int, sample_ids: Sequence[str], seed: int, ks: Sequence[int]) -> None:
        """None: streams do not depend on each other."""
        return None


@dataclass(frozen=True)
class BankDraw:
    """A bank of `size` sets per seed."""

    size: int
    shares_trunk: ClassVar = True
    serves_all_alike: ClassVar = False
    groups_samples: ClassVar = True
    is_sequential: ClassVar = False

    def stream_key(self, seed: int, sample_id: str) -> str:
        """One stream per set of the bank."""
        return f"bank:{seed}:{self.group(seed, sample_id)}"

    def group(self, seed: int, sample_id: str) -> int:
        """Which of the seed's sets serves a sample: a hash, so that it never depends on order."""
        digest = hashlib.blake2b(f"{seed}:{sample_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.size

    def table(self, pool_size: int, sample_ids: Sequence[str], seed: int, ks: Sequence[int]) -> None:
        """None: streams do not depend on each other."""
        return None


@dataclass(frozen=True)
class PerSampleDraw:
    """A set of its own for each (seed, sample)."""

    shares_trunk: ClassVar = False
    serves_all_alike: ClassVar = False
    groups_samples: ClassVar = False
    is_sequential: ClassVar = False

    def stream_key(self, seed: int, sample_id: str) -> str:
        """One stream per (seed, sample)."""
        return f"per_sample:{seed}:{sample_id}"

    def group(self, seed: int, sample_id: str) -> int:
        """One group: no two samples have a set in common."""
        return 0

    def table(self, pool_size: int, sample_ids: Sequence[str], seed: int, ks: Sequence[int]) -> None:
        """None: streams do not depend on each other."""
        return None


@dataclass(frozen=True)
class LectureDraw:
    """The notebook's: one stream seeded once; every test position draws `k` distinct rows from the whole pool.

    Source: the lecture notebook (see docs/lecture.md).
    """

    shares_trunk: ClassVar = False
    serves_all_alike: ClassVar = False
    groups_samples: ClassVar = False
    is_sequential: ClassVar = True

    def stream_key(self, seed: int, sample_id: str) -> str:
        """One stream per seed; `table` says what a position draws from it."""
        return f"lecture:{seed}"

    def group(self, seed: int, sample_id: str) -> int:
        """One group: no two samples have a set in common."""
        return 0

    def table(self, pool_size: int, sample_ids: Sequence[str], seed: int, ks: Sequence[int]) -> LectureTable:
        """What each test position draws in turn, for every K from the stream's beginning."""
        table = {}
        for k in ks:
            if k > 0:
                rng = random.Random(seed)
                table.update({(sample_id, k): rng.sample(range(pool_size), k) for sample_id in sample_ids})
        return table


def draw_of(options: DemosConfig) -> Draw:
    """The policy that `demos.policy` names, with the options of a run."""
    makers: dict[str, Callable[[], Draw]] = {
        "fixed": FixedDraw,
        "bank": lambda: BankDraw(options.bank_size),
        "per_sample": PerSampleDraw,
        "lecture": LectureDraw,
    }
    return makers[options.policy]()
