"""Runs units in the driver's own process: no Ray, for debuggers and small machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.distributed.dispatch import Replica
from harness.distributed.messages import Care, LectureTable, UnitReport
from harness.distributed.worker import Worker
from harness.grid import Shard, WorkUnit


class InlinePool:
    """One worker that is its own replica; a unit runs when its result is asked for."""

    name = "inline"

    def __init__(self, worker: Worker, shards: Sequence[Shard], lecture: Mapping[int, LectureTable]) -> None:
        self._worker = worker
        self._shards = shards
        self._lecture = lecture
        self._units: dict[str, WorkUnit] = {}

    def submit(self, unit: WorkUnit, care: Care | None) -> str:
        """Remember the unit."""
        self._units[unit.id] = unit
        return unit.id

    def replicas(self, useful: int) -> Sequence[Replica]:
        """This process."""
        return [self]

    def wait(self, handles: Sequence[str], timeout_s: float) -> Sequence[str]:
        """The first unit: it is as good as done."""
        return list(handles)[:1]

    def result(self, handle: str) -> UnitReport:
        """Do the unit."""
        unit = self._units.pop(handle)
        return self._worker.run_unit(unit, self._shards[unit.shard].samples, self._lecture.get(unit.seed))

    def replace(self, replica: Replica) -> None:
        """Nothing can die here but the driver itself."""

    def release(self, replica: Replica) -> None:
        """This process is needed to the end."""
