"""What the dispatch loop asks of replicas, of a pool of them, and of where units come from. Knows no implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from harness.planning.units import WorkUnit
from harness.results.quarantine import Ending
from harness.running.messages import Handling, UnitReport

UNITS_IN_FLIGHT = 2
"""Per replica that does one unit after the other: one runs while the next waits beside it."""


class ReplicaDiedError(Exception):
    """The replica's process or node is gone; its units are not done.

    Args:
        cause: in words.
        ending: how, as far as it is known.
    """

    def __init__(self, cause: str, ending: Ending = Ending.DIED) -> None:
        super().__init__(cause)
        self.ending = ending


class Replica(Protocol):
    """One loaded model that takes units."""

    name: str

    def submit(self, unit: WorkUnit, handling: Handling | None) -> Any:
        """Start a unit; returns a handle that `Pool.wait` accepts."""
        ...


class Pool(Protocol):
    """The replicas of one model."""

    units_in_flight: int
    """Most units that a replica has at a time."""

    def replicas(self, useful: int) -> Sequence[Replica]:
        """Replicas that can take units now.

        Args:
            useful: how many replicas would find work; a pool that can grow may start more.
        """
        ...

    def wait(self, handles: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """All handles that are done, as soon as one is, at most after the timeout."""
        ...

    def result(self, handle: Any) -> UnitReport:
        """A done handle's report.

        Raises:
            ReplicaDiedError: the replica is gone.
            Exception: what the unit raised.
        """
        ...

    def under_way(self) -> Mapping[str, int]:
        """Prompts that have gone through a model so far, of each unit under way by its id, as far as it is known.

        Returns at once; called by another thread than everything else here.
        """
        ...

    def replace(self, replica: Replica) -> None:
        """Bring a dead replica back, or a new one in its place."""
        ...

    def release(self, replica: Replica) -> None:
        """Give back the resources of a replica that finds no more work."""
        ...


class Source(Protocol):
    """Where units come from; a `harness.running.schedule.Schedule` that knows how many are left."""

    def next(self, n: int) -> Sequence[WorkUnit]:
        """At most `n` units that may begin now; none while it waits for others to finish, and at its end."""
        ...

    def finished(self, unit: WorkUnit, report: UnitReport) -> None:
        """A unit is committed."""
        ...

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing comes any more."""
        ...

    @property
    def n_left(self) -> int | None:
        """Units that are still to come; None while that is not known."""
        ...
