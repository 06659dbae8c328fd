"""Runs units in the driver's own process: no Ray, for debuggers and small machines.

What ends a unit's process ends the run here. So each unit is noted in the run directory while it is under way: the
next session finds what this one came to its end over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial

from harness.core.errors import BrokenDeviceError
from harness.planning.units import Shard, WorkUnit
from harness.running import pipeline
from harness.running.failures import Pace
from harness.running.messages import Handling, LectureTable, UnitReport, note_name, process_name, write_note
from harness.running.pipeline import Inputs, Pipeline
from harness.running.pool import UNITS_IN_FLIGHT, Replica
from harness.running.watchdog import Watchdog
from harness.running.worker import UnitWorker


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
        self, worker: UnitWorker, shards: Sequence[Shard], lecture: Mapping[int, LectureTable], overlap: bool
    ) -> None:
        self._worker = worker
        self._shards = shards
        self._lecture = lecture
        self._pipeline = Pipeline(worker) if overlap else None
        self.units_in_flight = pipeline.UNITS_IN_FLIGHT if overlap else UNITS_IN_FLIGHT
        self._units: dict[str, tuple[WorkUnit, Handling | None]] = {}
        self._under_way: dict[str, Future[UnitReport]] = {}
        self._is_broken = False
        self._pace = Pace(worker.spec.config.run.hang_after_s)
        self._watchdog = Watchdog(worker.spec.config.run_dir) if self._pace.least_s else None

    def submit(self, unit: WorkUnit, handling: Handling | None) -> str:
        """Remember the unit, or let it follow the others."""
        self._units[unit.id] = unit, handling
        if self._pipeline is not None:
            self._under_way[unit.id] = self._pipeline.submit(unit, partial(self._begin, unit), handling)
            if len(self._units) == 1:
                self._watch_first()
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
        unit, handling = self._units[handle]
        try:
            if self._pipeline is not None:
                report = self._under_way.pop(handle).result()
            else:
                self._watch(unit, handling)
                report = self._worker.run_unit(unit, *self._begin(unit), handling)
        except BrokenDeviceError:
            self._is_broken = True  # The note stays: it is as if this process had died.
            raise
        except BaseException:
            self._end(unit)
            raise
        self._pace.learn(report.statistics.seconds, len(self._shards[unit.shard].samples))
        self._end(unit)
        return report

    def _begin(self, unit: WorkUnit) -> Inputs:
        """Note a unit whose first step is taken, and give what it is prepared from."""
        write_note(self._worker.store, unit.id, None, process_name())
        return self._shards[unit.shard].samples, None if unit.seed is None else self._lecture.get(unit.seed)

    def _end(self, unit: WorkUnit) -> None:
        self._worker.store.remove(note_name(unit.id))
        del self._units[unit.id]
        if self._pipeline is not None:
            self._watch_first()
        elif self._watchdog is not None:
            self._watchdog.rest()

    def _watch_first(self) -> None:
        """Watch the first of the units that overlap; they come to their ends in turn."""
        for unit, handling in list(self._units.values())[:1]:
            self._watch(unit, handling)
        if self._watchdog is not None and not self._units:
            self._watchdog.rest()

    def _watch(self, unit: WorkUnit, handling: Handling | None) -> None:
        if self._watchdog is not None:
            is_alone = handling is not None and handling.alone
            n_samples = 1 if is_alone else max(2, len(self._shards[unit.shard].samples))
            self._watchdog.watch(unit, self._pace.limit_s(n_samples), is_alone)

    def under_way(self) -> Mapping[str, int]:
        """See `harness.running.pool.Pool.under_way`."""
        return self._worker.under_way()

    def replace(self, replica: Replica) -> None:
        """Nothing can die here but the driver itself."""

    def release(self, replica: Replica) -> None:
        """This process is needed to the end."""

    def close(self) -> None:
        """Let go of what is under way; a part that is being written is written."""
        if self._pipeline is not None:
            self._pipeline.close()
        if self._watchdog is not None:
            self._watchdog.close()
        for unit_id in () if self._is_broken else self._units:
            self._worker.store.remove(note_name(unit_id))
