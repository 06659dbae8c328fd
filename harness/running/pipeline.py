"""Takes the steps of successive units at the same time: one is prepared, one computed, one committed.

Each step has a thread of its own, so that only one uses the model, and takes the units in the order in which they
were submitted. Knows units and steps; refuses to know what the steps do.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum, auto
from queue import SimpleQueue
from typing import Any, Protocol

from harness.core.task import Sample
from harness.planning.units import WorkUnit
from harness.running.messages import Handling, LectureTable, UnitReport


class Steps(Protocol):
    """What a pipeline asks of a worker; see `harness.running.worker.Worker`."""

    def prepare(
        self, unit: WorkUnit, samples: Sequence[Sample], lecture: LectureTable | None, handling: Handling | None
    ) -> Any:
        """The unit's work, ready to be computed."""
        ...

    def compute(self, work: Any) -> None:
        """Put the work through the model."""
        ...

    def commit(self, work: Any) -> UnitReport:
        """Write what was found."""
        ...


Inputs = tuple[Sequence[Sample], LectureTable | None]
"""A unit's samples, and its draws for the lecture policy."""


class _Place(Enum):
    """Where a unit can be; each place holds one."""

    AHEAD = auto()
    """Being prepared, or waiting for the model."""
    MODEL = auto()
    """Being computed, or waiting for the one behind to be written."""
    BEHIND = auto()
    """Being judged and written."""


UNITS_IN_FLIGHT = len(_Place)
"""Units that fill a pipeline."""


@dataclass
class _Job:
    unit: WorkUnit
    read: Callable[[], Inputs]
    handling: Handling | None
    work: Any = None
    error: BaseException | None = None
    """Of a step; the others are left out then."""
    report: UnitReport | None = None
    future: Future[UnitReport] = field(default_factory=Future)

    @property
    def is_alone(self) -> bool:
        """Whether the unit overlaps no other."""
        return self.handling is not None and self.handling.alone

    def attempt(self, step: Callable[[], None]) -> None:
        """Take a step, unless one before it has failed."""
        if self.error is None:
            try:
                step()
            except BaseException as error:
                self.error = error


class _ClosedError(Exception):
    """No step begins any more."""


class Pipeline:
    """The three steps of one worker, each in a thread.

    Args:
        worker: takes the steps. Its `prepare` runs beside `compute` and `commit` of other units.
    """

    def __init__(self, worker: Steps) -> None:
        self._worker = worker
        self._changed = threading.Condition()
        self._taken: set[_Place] = set()
        self._closed = self._committing = False
        self._queues: list[SimpleQueue[_Job | None]] = []
        # Nobody closes the pipeline of an actor whose node dies: its threads must not keep the process alive.
        self._threads: list[threading.Thread] = []
        for step in (self._prepare, self._compute, self._commit):
            self._queues.append(SimpleQueue())
            name = step.__name__.strip("_")
            thread = threading.Thread(target=self._run, args=(len(self._queues) - 1, step), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def submit(self, unit: WorkUnit, read: Callable[[], Inputs], handling: Handling | None) -> Future[UnitReport]:
        """Let a unit follow those that were submitted before.

        A unit taken sample by sample overlaps no other: if the process ends meanwhile, one of its samples did that.

        Args:
            unit: the unit.
            read: gives what it is prepared from, when it is.
            handling: as for `Worker.prepare`.

        Returns:
            Its report, or what it raised. Units finish in their order, those that failed included.
        """
        job = _Job(unit, read, handling)
        self._queues[0].put(job)
        return job.future

    def close(self) -> None:
        """Forget all units but one that is being written; returns when it is.

        A unit that is being computed is computed to the end, behind the caller's back, and forgotten.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._committing)
        for queue, thread in zip(self._queues, self._threads, strict=True):
            queue.put(None)
            # The interpreter is not taken apart under a thread that computes.
            atexit.register(thread.join)

    def _run(self, number: int, step: Callable[[_Job], None]) -> None:
        while (job := self._queues[number].get()) is not None:
            try:
                step(job)
            except _ClosedError:
                job.future.cancel()
                continue
            if number + 1 < len(self._queues):
                self._queues[number + 1].put(job)

    def _prepare(self, job: _Job) -> None:
        self._take(list(_Place) if job.is_alone else [_Place.AHEAD])

        def prepare() -> None:
            job.work = self._worker.prepare(job.unit, *job.read(), job.handling)

        job.attempt(prepare)

    def _compute(self, job: _Job) -> None:
        if not job.is_alone:
            self._take([_Place.MODEL])
            self._leave([_Place.AHEAD])
        job.attempt(lambda: self._worker.compute(job.work))
        if not job.is_alone:
            self._take([_Place.BEHIND])
            self._leave([_Place.MODEL])

    def _commit(self, job: _Job) -> None:
        with self._changed:
            if self._closed:
                raise _ClosedError
            self._committing = True

        def commit() -> None:
            job.report = self._worker.commit(job.work)

        job.attempt(commit)
        job.work = None
        self._committing = False
        self._leave(list(_Place) if job.is_alone else [_Place.BEHIND])
        if job.report is not None:
            job.future.set_result(job.report)
        else:
            job.future.set_exception(job.error)

    def _take(self, places: Sequence[_Place]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._taken.isdisjoint(places))
            if self._closed:
                raise _ClosedError
            self._taken.update(places)

    def _leave(self, places: Sequence[_Place]) -> None:
        with self._changed:
            self._taken.difference_update(places)
            self._changed.notify_all()
