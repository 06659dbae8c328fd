"""What is left of a schedule's units, for the replicas of one model at a time.

Knows what is committed; refuses to know replicas and storage.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import fields

from harness.core.errors import ScheduleError
from harness.planning.units import WorkUnit
from harness.results.schema import UnitStatistics
from harness.running.dispatch import WAITS_FOR_NOTHING
from harness.running.messages import UnitReport
from harness.running.schedule import Schedule


class Feed:
    """The pieces that are to be computed of the units that a schedule gives.

    Args:
        schedule: gives units of the plan.
        pieces: a unit of the plan, or one with fewer K, to what is not committed of it; None for other units.
        committed: the report of a unit whose records are all committed.
        retries: parts of which failed samples are computed again; they come before a model's other pieces.

    Attributes:
        given: the units that the schedule has given so far.
    """

    def __init__(
        self,
        schedule: Schedule,
        pieces: Callable[[WorkUnit], Sequence[WorkUnit] | None],
        committed: Callable[[WorkUnit], UnitReport],
        retries: Sequence[WorkUnit] = (),
    ) -> None:
        self._schedule, self._pieces, self._committed = schedule, pieces, committed
        self._ready: deque[WorkUnit] = deque()
        self._whole: dict[str, WorkUnit] = {}
        self._open: dict[str, set[str]] = {}
        self._reports: dict[str, list[UnitStatistics]] = {}
        self.given: list[WorkUnit] = []
        self._known: set[str] = set()
        self._left: Counter[str] | None = None
        self._retried = {unit.id for unit in retries}
        self._retries: defaultdict[str, deque[WorkUnit]] = defaultdict(deque)
        for unit in retries:
            self._retries[unit.model].append(unit)

    @property
    def expected(self) -> Sequence[WorkUnit] | None:
        """All units of the schedule, given and to come; None while that depends on units that are not finished."""
        to_come = self._schedule.to_come
        return None if to_come is None else [*self.given, *to_come]

    def next_model(self) -> str | None:
        """The model of the next piece; None where none is left.

        Raises:
            ScheduleError: the schedule waits although nothing is under way.
        """
        while not self._ready and self._pull(1):
            pass
        if self._ready:
            return self._ready[0].model
        for model, retries in self._retries.items():
            if retries:
                return model
        if not self._schedule.is_exhausted:
            raise ScheduleError(WAITS_FOR_NOTHING)
        return None

    def of(self, model: str) -> ModelFeed:
        """The pieces of one model, as long as no other's is next."""
        return ModelFeed(self, model)

    def take(self, model: str, n: int) -> list[WorkUnit]:
        """At most `n` pieces of a model that may begin now."""
        found: list[WorkUnit] = []
        retries = self._retries[model]
        while retries and len(found) < n:
            found.append(retries.popleft())
        while len(found) < n:
            if not self._ready and not self._pull(n - len(found)):
                break
            if self._ready and self._ready[0].model != model:
                break
            if self._ready:
                found.append(self._ready.popleft())
        return found

    def finished(self, piece: WorkUnit, report: UnitReport) -> None:
        """A piece is committed; with the last one its unit is finished."""
        if piece.id in self._retried:
            return
        unit = self._whole[piece.id]
        self._reports.setdefault(unit.id, []).append(report.statistics)
        self._open[unit.id].discard(piece.id)
        if not self._open[unit.id]:
            taken = self._reports.pop(unit.id)
            self._schedule.finished(unit, UnitReport(unit.id, summed(taken), report.errors))

    def is_over(self, model: str) -> bool:
        """Whether no piece of a model comes before one of another."""
        if self._retries[model]:
            return False
        return self._ready[0].model != model if self._ready else self._schedule.is_exhausted

    def n_left(self, model: str) -> int | None:
        """Pieces of a model that are still to be given; None while that is not known."""
        if self._left is None:
            to_come = self._schedule.to_come
            if to_come is None:
                return None
            self._left = Counter(piece.model for unit in to_come for piece in self._pieces(unit) or ())
        retries = len(self._retries[model])
        return retries + self._left[model] + sum(piece.model == model for piece in self._ready)

    def _pull(self, n: int) -> bool:
        """Ask the schedule for units; whether it gave any."""
        units = self._schedule.next(n)
        for unit in units:
            where = f"{unit.id} ({unit.place}, K {list(unit.ks)}, shard {unit.shard})"
            if unit.id in self._known:
                raise ScheduleError(f"the schedule gave unit {where} twice; expected each unit once")
            pieces = self._pieces(unit)
            if pieces is None:
                raise ScheduleError(f"the schedule gave unit {where}, which is none of the run's; expected its units")
            self._known.add(unit.id)
            self.given.append(unit)
            if self._left is not None:
                self._left.subtract(piece.model for piece in pieces)
            if not pieces:
                self._schedule.finished(unit, self._committed(unit))
            self._open[unit.id] = {piece.id for piece in pieces}
            self._whole |= {piece.id: unit for piece in pieces}
            self._ready.extend(pieces)
        return bool(units)


class ModelFeed:
    """A feed's pieces of one model, as the dispatch loop takes them."""

    def __init__(self, feed: Feed, model: str) -> None:
        self._feed, self._model = feed, model

    def next(self, n: int) -> Sequence[WorkUnit]:
        """At most `n` pieces that may begin now."""
        return self._feed.take(self._model, n)

    def finished(self, unit: WorkUnit, report: UnitReport) -> None:
        """A piece is committed."""
        self._feed.finished(unit, report)

    @property
    def is_exhausted(self) -> bool:
        """Whether no more pieces of the model come before one of another."""
        return self._feed.is_over(self._model)

    @property
    def n_left(self) -> int | None:
        """Pieces that are still to be given; None while that is not known."""
        return self._feed.n_left(self._model)


def summed(taken: Sequence[UnitStatistics]) -> UnitStatistics:
    """What several pieces took together; the replica is the last one's."""
    counts = [f.name for f in fields(UnitStatistics) if f.name != "replica"]
    return UnitStatistics(
        **{name: sum(getattr(one, name) for one in taken) for name in counts}, replica=taken[-1].replica
    )
