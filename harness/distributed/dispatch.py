"""The driver's loop: feeds units to replicas until all are committed.

Knows units, attempts and a `Replica` protocol; the Ray actor and the inline worker both fit
it, so every path through the loop is tested without a cluster.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.distributed.messages import UnitReport
from harness.distributed.policy import Decision, after_replica_death, after_unit_error
from harness.errors import ReplicaError, UserError
from harness.grid import WorkUnit
from harness.stopping import Interrupted

log = logging.getLogger(__name__)
UNITS_IN_FLIGHT = 2
"""Per replica: one runs while the next waits beside it."""


class ReplicaDiedError(Exception):
    """The replica's process or node is gone; its units are not done."""


class Replica(Protocol):
    """One loaded model that takes units."""

    name: str

    def submit(self, unit: WorkUnit) -> Any:
        """Start a unit; returns a handle that `Pool.wait` accepts."""
        ...


class Pool(Protocol):
    """The replicas of one model."""

    def replicas(self) -> Sequence[Replica]:
        """Replicas that can take units now."""
        ...

    def wait(self, handles: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Handles that are done, at most after the timeout."""
        ...

    def result(self, handle: Any) -> UnitReport:
        """A done handle's report.

        Raises:
            ReplicaDiedError: the replica is gone.
            Exception: what the unit raised.
        """
        ...

    def replace(self, replica: Replica) -> None:
        """Bring a dead replica back, or a new one in its place."""
        ...


@dataclass
class _Flight:
    unit: WorkUnit
    replica: Replica


def dispatch(
    units: Sequence[WorkUnit],
    pool: Pool,
    on_done: Callable[[WorkUnit, UnitReport], None],
    should_stop: Callable[[], bool],
) -> None:
    """Run all units on the pool's replicas.

    Units go out in their order; a replica with a free slot takes the next one, so that fast
    replicas do more.

    Args:
        units: what is not committed yet.
        pool: the replicas.
        on_done: called once per finished unit, after its part is committed.
        should_stop: asked twice a second and after every unit.

    Raises:
        Interrupted: `should_stop` said so.
        ReplicaError: a unit or the replicas failed more often than the policy allows.
    """
    waiting = deque(units)
    flights: dict[Any, _Flight] = {}
    attempts: dict[str, int] = {}
    deaths = 0
    while waiting or flights:
        if should_stop():
            raise Interrupted
        for slot in range(UNITS_IN_FLIGHT):
            for replica in pool.replicas():
                busy = sum(flight.replica is replica for flight in flights.values())
                if waiting and busy <= slot:
                    unit = waiting.popleft()
                    flights[replica.submit(unit)] = _Flight(unit, replica)
        for handle in pool.wait(list(flights), timeout_s=0.5):
            if handle not in flights:
                continue
            flight = flights.pop(handle)
            unit = flight.unit
            try:
                report = pool.result(handle)
            except ReplicaDiedError as death:
                deaths += 1
                lost = [flight, *(f for f in flights.values() if f.replica is flight.replica)]
                for other in [h for h, f in flights.items() if f.replica is flight.replica]:
                    del flights[other]
                # Only the unit that was running can have caused it; the one behind it waits again.
                attempts[unit.id] = attempts.get(unit.id, 0) + 1
                log.warning("%s died with %d units in flight: %s", flight.replica.name, len(lost), death)
                if after_replica_death(attempts[unit.id], deaths) is Decision.STOP:
                    raise ReplicaError(
                        f"replicas died {deaths} times without progress, or {attempts[unit.id]} times in unit "
                        f"{unit.id} ({unit.template}, seed {unit.seed}); last cause: {death}"
                    ) from death
                waiting.extendleft(f.unit for f in reversed(lost))
                pool.replace(flight.replica)
                continue
            except UserError:
                raise
            except Exception as error:
                attempts[unit.id] = attempts.get(unit.id, 0) + 1
                log.warning("unit %s failed (attempt %d): %s", unit.id, attempts[unit.id], error)
                if after_unit_error(attempts[unit.id]) is Decision.STOP:
                    raise ReplicaError(
                        f"unit {unit.id} ({unit.template}, seed {unit.seed}) failed "
                        f"{attempts[unit.id]} times; last cause: {type(error).__name__}: {error}"
                    ) from error
                waiting.append(unit)
                continue
            deaths = 0
            on_done(unit, report)
            if should_stop():
                raise Interrupted
