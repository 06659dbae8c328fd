"""The driver's loop: feeds units to replicas until all are committed.

Knows units, attempts and a `Replica` protocol; the Ray actor and the inline worker both fit
it, so every path through the loop is tested without a cluster.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from harness.core.errors import ENDS_THE_RUN, Interrupted, ReplicaError, ScheduleError, UserError
from harness.planning.units import WorkUnit
from harness.results.quarantine import Ending, Trial
from harness.running.failures import Decision, Pace, after_replica_death, after_unit_error, is_straggler
from harness.running.messages import Handling, Note, UnitReport
from harness.running.pool import Pool, Replica, ReplicaDiedError, Source
from harness.running.precautions import Precautions

log = logging.getLogger(__name__)
WATCH_EVERY_S = 1.0
"""How often hanging replicas are looked for."""
PULLED_AT_ONCE = 16
"""Units that are asked for where none of those at hand may begin."""
MANY = 10**6
"""Units that may still come where nobody knows how many."""
WAITS_FOR_NOTHING = "the schedule waits for units to finish, but none is under way; expected units, or its end"


@dataclass(frozen=True)
class Timing:
    """What tells replicas that hang, and units that drag on."""

    hang_after_s: float = 0.0
    """The least seconds after which a replica hangs, is ended and replaced; 0 for never."""
    clock: Callable[[], float] = time.monotonic
    """Seconds."""


@dataclass
class _Flight:
    unit: WorkUnit
    replica: Replica
    number: int
    """Flights of one replica begin, and end, in the order of their numbers; with a pipeline they overlap."""
    began: float
    """When it was sent, or when the unit before it on the same replica ended."""
    handling: Handling | None
    """How it was sent."""
    note: Note | None = None
    """What a unit taken sample by sample was at when its time was up before."""


def dispatch(
    source: Source,
    pool: Pool,
    on_done: Callable[[WorkUnit, UnitReport], None],
    should_stop: Callable[[], bool],
    precautions: Precautions | None = None,
    timing: Timing | None = None,
) -> None:
    """Run all units of a source on the pool's replicas.

    Units go out in their order; a replica with a free slot takes the next one, so that fast
    replicas do more. Towards the end a unit that drags on is given to an idle replica as well;
    the first to commit wins. A unit whose replica died is taken sample by sample, and a sample that
    ends two processes by itself is out for the run.

    Args:
        source: gives units that are not committed yet.
        pool: the replicas.
        on_done: called once per finished unit, after its part is committed.
        should_stop: asked twice a second and after every unit.
        precautions: what is known of the units' samples; nothing by default.
        timing: when a replica hangs; never by default.

    Raises:
        Interrupted: `should_stop` said so.
        ReplicaError: a unit or the replicas failed more often than the policy allows.
        ScheduleError: the source waits although nothing is under way.
    """
    _Dispatcher(source, pool, on_done, should_stop, precautions or Precautions(), timing or Timing()).run()


class _Dispatcher:
    def __init__(
        self,
        source: Source,
        pool: Pool,
        on_done: Callable[[WorkUnit, UnitReport], None],
        should_stop: Callable[[], bool],
        precautions: Precautions,
        timing: Timing,
    ) -> None:
        self.pool, self.on_done, self.should_stop = pool, on_done, should_stop
        self.precautions, self.clock = precautions, timing.clock
        self.pace, self.watched_s = Pace(timing.hang_after_s), timing.clock()
        self.source = source
        self.waiting: deque[WorkUnit] = deque()
        self.open: set[str] = set()
        self.flights: dict[Any, _Flight] = {}
        self.held: defaultdict[Replica, list[_Flight]] = defaultdict(list)
        """The flights of each replica, first sent first: looking through all for each would be quadratic."""
        self.finished_s: list[float] = []
        self.errors: Counter[str] = Counter()
        self.unit_deaths: Counter[str] = Counter()
        self.idle_deaths = 0
        self.sent = 0
        self.counted_until = 0
        """Flights with smaller numbers were under way at the last death that was counted."""

    def run(self) -> None:
        while self._has_work():
            if self.should_stop():
                raise Interrupted
            left = self.source.n_left
            replicas = self.pool.replicas(len(self.open) + (MANY if left is None else left))
            self._feed(replicas)
            if not self.waiting:
                self._end_game(replicas)
            for handle in self.pool.wait(list(self.flights), timeout_s=0.5):
                if handle in self.flights and self._take(handle) and self.should_stop():
                    raise Interrupted
            # After what is done was taken: a driver that was stopped for a while finds its replicas well.
            self._end_hanging()

    def _end_hanging(self) -> None:
        """End replicas that do not come to an end, and take their units sample by sample."""
        now = self.clock()
        if now - self.watched_s < WATCH_EVERY_S:
            return
        self.watched_s = now
        for flight in [flights[0] for flights in self.held.values() if flights]:
            is_alone = flight.handling is not None and flight.handling.alone
            limit_s = self.pace.limit_s(1 if is_alone else max(2, len(self.precautions.samples(flight.unit))))
            if now - flight.began <= limit_s:
                continue
            note = self.precautions.note_of(flight.unit) if is_alone else None
            if is_alone and note != flight.note:
                flight.note, flight.began = note, now
                continue
            self._land(flight)
            self._bury(flight, ReplicaDiedError(f"no end within {limit_s:.0f} s (run.hang_after_s)", Ending.HUNG))

    def _has_work(self) -> bool:
        """Whether a unit is open, or one comes now."""
        if not self.open:
            self._pull(1)
        if not self.open and not self.source.is_exhausted:
            raise ScheduleError(WAITS_FOR_NOTHING)
        return bool(self.open)

    def _pull(self, n: int) -> None:
        """Let units of the source wait, until `n` do."""
        units = self.source.next(n - len(self.waiting)) if n > len(self.waiting) else ()
        self.waiting.extend(units)
        self.open.update(unit.id for unit in units)
        self.precautions.expect(units)

    def _feed(self, replicas: Sequence[Replica]) -> None:
        self._pull(sum(max(0, self.pool.units_in_flight - len(self.held[replica])) for replica in replicas))
        stuck = False  # nothing may go to a replica that has nothing yet
        for slot in range(self.pool.units_in_flight):
            for replica in replicas:
                if not self.waiting:
                    return
                if len(self.held[replica]) > slot or (stuck and not self.held[replica]):
                    continue
                unit = self._next(replica)
                if unit is not None:
                    self._send(unit, replica)
                elif not self.held[replica]:
                    stuck = True

    def _next(self, replica: Replica) -> WorkUnit | None:
        """The first of the waiting units that may go to a replica now; where none may, of those that come next."""
        seen = 0
        while seen < len(self.waiting):
            for place in range(seen, len(self.waiting)):
                unit = self.waiting[place]
                if self.precautions.may_go(unit, replica):
                    del self.waiting[place]
                    return unit
            seen = len(self.waiting)
            self._pull(seen + PULLED_AT_ONCE)
        return None

    def _send(self, unit: WorkUnit, replica: Replica) -> None:
        handling = self.precautions.handling(unit)
        flight = _Flight(unit, replica, self.sent, self.clock(), handling)
        self.flights[replica.submit(unit, handling)] = flight
        self.held[replica].append(flight)
        self.precautions.sent(unit, replica)
        self.sent += 1

    def _end_game(self, replicas: Sequence[Replica]) -> None:
        """Nothing waits: idle replicas back up stragglers, and those that cannot help are released."""
        idle = [replica for replica in replicas if not self.held[replica]]
        if not idle:
            return
        typical_s = [median(self.finished_s)] if self.finished_s else []
        copies = Counter(flight.unit.id for flight in self.flights.values())
        for flight in [f for f in self.flights.values() if f.unit.id in self.open]:
            behind = self.held[flight.replica][0] is not flight
            slow = behind or is_straggler(self.clock() - flight.began, typical_s)
            # A unit that has killed a replica may kill the next one too: it is never copied.
            is_alone = flight.handling is not None and flight.handling.alone
            if not idle or not slow or copies[flight.unit.id] > 1 or self.unit_deaths[flight.unit.id] or is_alone:
                continue
            if not self.precautions.may_go(flight.unit, idle[-1]):
                continue
            if not behind:
                log.warning("unit %s drags on at %s: another takes it too", flight.unit.id, flight.replica.name)
            self._send(flight.unit, idle.pop())
        for replica in idle[len(self.open) :] if self.source.is_exhausted else ():
            self.pool.release(replica)

    def _take(self, handle: Any) -> bool:
        """Take a handle that is done; whether its unit is."""
        flight = self.flights.pop(handle)
        self._land(flight)
        for behind in self.held[flight.replica]:
            behind.began = self.clock()
        unit = flight.unit
        try:
            report = self.pool.result(handle)
        except ReplicaDiedError as death:
            self._bury(flight, death)
            return False
        except (UserError, *ENDS_THE_RUN):
            # A device that is broken in this very process, a server that is gone: nothing can be tried again.
            raise
        except Exception as error:
            self._fail(unit, error)
            return False
        self.idle_deaths = 0
        if unit.id not in self.open:
            return False
        self.open.discard(unit.id)
        self.finished_s.append(report.statistics.seconds)
        self.pace.learn(report.statistics.seconds, len(self.precautions.samples(unit)))
        self.precautions.done(unit)
        self.on_done(unit, report)
        self.source.finished(unit, report)
        return True

    def _land(self, flight: _Flight) -> None:
        """A flight is over, one way or the other."""
        self.held[flight.replica].remove(flight)
        self.precautions.ended(flight.unit, flight.replica)

    def _again(self, units: Sequence[WorkUnit], first: bool) -> None:
        """Let units wait again that are open and under way nowhere else."""
        flying = {flight.unit.id for flight in self.flights.values()}
        lost = [unit for unit in units if unit.id in self.open and unit.id not in flying]
        if first:
            self.waiting.extendleft(reversed(lost))
        else:
            self.waiting.extend(lost)

    def _bury(self, flight: _Flight, death: ReplicaDiedError) -> None:
        others = self.held.pop(flight.replica)
        for other in others:
            self.precautions.ended(other.unit, other.replica)
        lost = sorted([flight, *others], key=lambda f: f.number)
        self.flights = {h: f for h, f in self.flights.items() if f.replica is not flight.replica}
        # The first was under way, whichever of them is reported first. Where units overlap, one behind it may be the
        # cause: the first is then taken by itself, comes through, and the next death counts for the next.
        unit, handling = lost[0].unit, lost[0].handling
        # Replicas may have died together, with their node: what was under way by then is counted once.
        counts = lost[0].number >= self.counted_until
        if counts:
            self.counted_until = self.sent
            self.idle_deaths += 1
            self.unit_deaths[unit.id] += death.ending is not Ending.NODE
        suspect = None
        if handling is not None and handling.alone:
            suspect = self._take_evidence(unit, handling, death)
        if suspect is None and counts and death.ending is Ending.DIED:
            self.precautions.unexplained([f.unit for f in lost if f.unit.id in self.open])
        log.warning(
            "%s died with %d units in flight, in unit %s%s: %s",
            flight.replica.name, len(lost), unit.id, f" at sample {suspect}" if suspect else "", death,
        )  # fmt: skip
        quarantine = self.precautions.quarantine
        decision = after_replica_death(
            self.unit_deaths[unit.id],
            suspect is not None and quarantine.is_out(suspect),
            len(handling.out) if handling is not None else 0,
            self.idle_deaths,
        )
        if decision is Decision.STOP:
            raise ReplicaError(
                f"replicas died {self.idle_deaths} times without progress, {self.unit_deaths[unit.id]} times in unit "
                f"{unit.id} ({unit.place}); last cause: {death}"
            ) from death
        if decision is Decision.QUARANTINE:
            log.warning("sample %s ends its process: it is recorded as failed in the whole run", suspect)
            self.idle_deaths = 0
            del self.unit_deaths[unit.id]
        elif decision is Decision.CAREFUL and suspect is None and counts:
            self.precautions.died(unit)
        self._again([f.unit for f in lost], first=True)
        self.pool.replace(flight.replica)

    def _take_evidence(self, unit: WorkUnit, handling: Handling, death: ReplicaDiedError) -> str | None:
        """The sample that a unit taken sample by sample was at when its process ended; None when that is not known."""
        note = self.precautions.note_of(unit)
        if note is None or note.sample is None or death.ending is Ending.NODE:
            return None
        trial = Trial(unit.id, note.process, death.ending, str(death))
        if self.precautions.failed_alone(unit, handling, note.sample, trial):
            self.idle_deaths = 0
        return note.sample

    def _fail(self, unit: WorkUnit, error: Exception) -> None:
        self.errors[unit.id] += 1
        log.warning("unit %s failed (attempt %d): %s", unit.id, self.errors[unit.id], error)
        if after_unit_error(self.errors[unit.id]) is Decision.STOP:
            raise ReplicaError(
                f"unit {unit.id} ({unit.place}) failed {self.errors[unit.id]} times; "
                f"last cause: {type(error).__name__}: {error}"
            ) from error
        self._again([unit], first=False)
