"""Which units come next: those of a grid in its order, or whatever a schedule decides while the run goes on.

Knows units and what replicas say of them; refuses to know replicas, storage and what is committed already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from harness.planning.units import WorkUnit
from harness.running.messages import UnitReport


class Schedule(Protocol):
    """Gives out units, each once.

    A run that is resumed asks a new schedule from the beginning: units whose records are committed are finished at
    once, before anything is computed, so that a schedule that decides by reports comes to the same decisions.
    """

    def next(self, n: int) -> Sequence[WorkUnit]:
        """At most `n` units that may begin now; none while it waits for others to finish, and at its end."""
        ...

    def finished(self, unit: WorkUnit, report: UnitReport) -> None:
        """A unit is committed.

        Args:
            unit: one that `next` gave.
            report: what it took. Where its records were computed in several pieces, as in a run that has grown,
                their sum.
        """
        ...

    @property
    def is_exhausted(self) -> bool:
        """Whether `next` will give nothing any more, whatever finishes."""
        ...

    @property
    def to_come(self) -> Sequence[WorkUnit] | None:
        """The units that `next` will still give; None while that depends on units that are not finished."""
        ...


class InOrder:
    """All units, one after the other.

    Args:
        units: in their order.
    """

    def __init__(self, units: Sequence[WorkUnit]) -> None:
        self._units = units
        self._given = 0

    def next(self, n: int) -> Sequence[WorkUnit]:
        """See `Schedule.next`."""
        found = self._units[self._given : self._given + n]
        self._given += len(found)
        return found

    def finished(self, unit: WorkUnit, report: UnitReport) -> None:
        """Nothing depends on it."""

    @property
    def is_exhausted(self) -> bool:
        """Whether all were given."""
        return self._given == len(self._units)

    @property
    def to_come(self) -> Sequence[WorkUnit]:
        """Those that were not given yet."""
        return self._units[self._given :]
