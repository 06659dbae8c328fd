"""Runs units in the driver's own process: no Ray, for debuggers and small machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial

from harness.planning.units import Shard, WorkUnit
from harness.running import pipeline
from harness.running.dispatch import UNITS_IN_FLIGHT, Replica
from harness.running.messages import Care, LectureTable, UnitReport
from harness.running.pipeline import Inputs, Pipeline
from harness.running.worker import Worker


class InlinePool:
    """One worker that is its own replica.

    Args:
        worker: the worker.
        shards: samples by their number.
        lecture: draws per seed for the lecture policy.
        overlap: whether the next unit is prepared and the last one written while one is computed, in threads;
            else a unit runs when its result is asked for, in the caller's thread.
    """

    name = "inline"

    def __init__(
        self, worker: Worker, shards: Sequence[Shard], lecture: Mapping[int, LectureTable], overlap: bool
    ) -> None:
        self._worker = worker
        self._shards = shards
        self._lecture = lecture
        self._pipeline = Pipeline(worker) if overlap else None
        self.units_in_flight = pipeline.UNITS_IN_FLIGHT if overlap else UNITS_IN_FLIGHT
        self._units: dict[str, tuple[WorkUnit, Care | None]] = {}
        self._under_way: dict[str, Future[UnitReport]] = {}

    def submit(self, unit: WorkUnit, care: Care | None) -> str:
        """Remember the unit, or let it follow the others."""
        self._units[unit.id] = unit, care
        if self._pipeline is not None:
            self._under_way[unit.id] = self._pipeline.submit(unit, partial(self._inputs, unit), care)
        return unit.id

    def replicas(self, useful: int) -> Sequence[Replica]:
        """This process."""
        return [self]

    def wait(self, handles: Sequence[str], timeout_s: float) -> Sequence[str]:
        """Units that are done; without a pipeline the first one, which is as good as done."""
        if self._pipeline is None:
            return list(handles)[:1]
        done = wait([self._under_way[handle] for handle in handles], timeout_s, FIRST_COMPLETED).done
        return [handle for handle in handles if self._under_way[handle] in done]

    def result(self, handle: str) -> UnitReport:
        """The unit's report; without a pipeline, do it now."""
        unit, care = self._units.pop(handle)
        if self._pipeline is not None:
            return self._under_way.pop(handle).result()
        return self._worker.run_unit(unit, *self._inputs(unit), care)

    def _inputs(self, unit: WorkUnit) -> Inputs:
        return self._shards[unit.shard].samples, self._lecture.get(unit.seed)

    def replace(self, replica: Replica) -> None:
        """Nothing can die here but the driver itself."""

    def release(self, replica: Replica) -> None:
        """This process is needed to the end."""

    def close(self) -> None:
        """Let go of what is under way; a part that is being written is written."""
        if self._pipeline is not None:
            self._pipeline.close()
