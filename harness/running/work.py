"""A unit on its way through a worker's steps: what is to compute, what was found, what it took.

Knows prompts and records; refuses to know how anything is computed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.core.task import Sample
from harness.planning.units import WorkUnit
from harness.results.schema import Record, UnitStatistics
from harness.running.messages import Handling, LectureTable, UnitReport, process_name


@dataclass(frozen=True)
class Batch:
    """Prompts, or what a classifier reads in their place, that go through the engine together, sample by sample."""

    prompts: list[Any]
    n_ks: int
    """Prompts of each sample."""
    prepared: Any
    """What the engine worked out about them before it computes; its own affair."""

    def halves(self) -> list[tuple[list[Any], int]]:
        """Prompts and `n_ks` of both halves: of the samples, or of the K of a single one. A single prompt has none."""
        n_samples = len(self.prompts) // self.n_ks
        cut = n_samples // 2 * self.n_ks if n_samples > 1 else self.n_ks // 2
        parts = [self.prompts[:cut], self.prompts[cut:]] if cut else []
        return [(part, self.n_ks if n_samples > 1 else len(part)) for part in parts]


@dataclass(frozen=True)
class Found:
    """What was found of some prompts, or of what a classifier reads."""

    prompts: list[Any]
    result: Any
    """Scores, generations or classes."""


@dataclass
class Work:
    """A unit on its way; only one step has it at a time."""

    unit: WorkUnit
    samples: Sequence[Sample]
    lecture: LectureTable | None
    handling: Handling
    report: UnitReport | None = None
    """Of a unit that was committed before: nothing is left to do."""
    batches: list[Batch | Record] = field(default_factory=list)
    """To compute; records are those of samples that failed, as in the next."""
    found: list[Found | Record] = field(default_factory=list)
    """To judge."""
    records: list[Record] = field(default_factory=list)
    tokens_computed: int = 0
    n_prompts: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0
    scoring_seconds: float = 0.0
    cost: float = 0.0
    n_through: int = 0
    """Prompts that have gone through the model while it computes; of a batch that is tried again once more."""

    @property
    def n_under_way(self) -> int:
        """The same, never more than the unit has."""
        return min(self.n_through, len(self.samples) * len(self.unit.ks))

    def pay(self, cost: float) -> None:
        """Count what requests have cost as the unit's."""
        self.cost += cost

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the time of the block as the unit's."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - started

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Count the time of the block, in which the unit has the model."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.scoring_seconds += time.monotonic() - started

    def statistics(self, records: Sequence[Record]) -> UnitStatistics:
        """What the unit took.

        Args:
            records: what is committed.
        """
        return UnitStatistics(
            len(records),
            sum(record.error is not None for record in records),
            self.n_prompts,
            self.prompt_tokens,
            self.tokens_computed,
            self.seconds,
            self.scoring_seconds,
            process_name(),
            self.cost,
        )
