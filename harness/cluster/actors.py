"""The bodies of Ray actors that hold a model. Knows workers and blocks; refuses to know the pool and the driver.

The model is loaded by a call rather than in the constructor, so that a process that starts is told from one that
loads.
"""

from __future__ import annotations

import asyncio
import platform
from functools import partial
from typing import TYPE_CHECKING, Any

import ray

from harness.cluster.blocks import samples_from
from harness.cluster.metrics import ReplicaMetrics
from harness.core.collecting import collect_after_start
from harness.core.errors import BrokenDeviceError
from harness.engine.protocol import EngineFacts
from harness.planning.units import WorkUnit
from harness.prompts.demonstrations import PoolDraw
from harness.running.messages import Handling, UnitReport, WorkerSpec
from harness.running.pipeline import Inputs, Pipeline

if TYPE_CHECKING:
    from harness.running.worker import UnitWorker


WATCHING = "watching"
"""The calls that a replica answers beside its work."""


class BrokenReplicaError(Exception):
    """The device of a replica is broken, so its process has to end. Its argument is the cause."""


class ReplicaActor:
    """A worker that is made by `load` and does one unit after the other, both in one thread."""

    def __init__(self) -> None:
        self._worker: UnitWorker | None = None
        self._metrics: ReplicaMetrics | None = None

    def load(self, spec: WorkerSpec, draw: PoolDraw) -> EngineFacts:
        """Load the model, unless only the way to the driver was broken; says what it runs on."""
        collect_after_start()
        from harness.running.opening import open_worker

        if self._worker is None:
            self._worker = open_worker(spec, draw)
        return self._worker.facts

    def node(self) -> tuple[str, str]:
        """Id and host name of the node that this actor is on."""
        return ray.get_runtime_context().get_node_id(), platform.node()

    @ray.method(concurrency_group=WATCHING)
    def under_way(self) -> dict[str, int]:
        """See `harness.running.worker.UnitWorker.under_way`; answers while a unit runs."""
        return self.worker.under_way()

    def run_unit(self, unit: WorkUnit, blocks: list[Any], handling: Handling | None, name: str) -> UnitReport:
        """Do one unit.

        Args:
            unit: the unit.
            blocks: references to its shard and its draws, in a list so that Ray does not look them up first:
                units would start in another order than they were sent.
            handling: as for `UnitWorker.run_unit`.
            name: the replica's.

        Raises:
            BrokenReplicaError: the process is of no more use.
        """
        try:
            report = self.worker.run_unit(unit, *inputs(blocks), handling)
        except BrokenDeviceError as error:
            raise BrokenReplicaError(str(error)) from None
        return self.count(report, unit, name)

    @property
    def worker(self) -> UnitWorker:
        """What `load` made."""
        assert self._worker is not None, "units are sent after `load`"
        return self._worker

    def count(self, report: UnitReport, unit: WorkUnit, name: str) -> UnitReport:
        """Add a unit to the replica's metrics; the same report."""
        self._metrics = self._metrics or ReplicaMetrics(unit.model, name)
        self._metrics.count(report.statistics)
        return report


class PipelinedReplicaActor:
    """The same, but the steps of successive units overlap.

    Being asynchronous, it begins the calls in the order of their arrival, the next before the last has returned.
    """

    def __init__(self) -> None:
        self._actor = ReplicaActor()
        self._pipeline: Pipeline | None = None

    def load(self, spec: WorkerSpec, draw: PoolDraw) -> EngineFacts:
        """See `ReplicaActor.load`."""
        return self._actor.load(spec, draw)

    def node(self) -> tuple[str, str]:
        """See `ReplicaActor.node`."""
        return self._actor.node()

    async def under_way(self) -> dict[str, int]:
        """See `ReplicaActor.under_way`."""
        return self._actor.worker.under_way()

    async def run_unit(self, unit: WorkUnit, blocks: list[Any], handling: Handling | None, name: str) -> UnitReport:
        """See `ReplicaActor.run_unit`."""
        self._pipeline = self._pipeline or Pipeline(self._actor.worker)
        try:
            report = await asyncio.wrap_future(self._pipeline.submit(unit, partial(inputs, blocks), handling))
        except BrokenDeviceError as error:
            raise BrokenReplicaError(str(error)) from None
        return self._actor.count(report, unit, name)


def inputs(blocks: list[Any]) -> Inputs:
    """Samples and draws of a unit.

    Args:
        blocks: references to a block of the Ray Dataset, and to the seed's draws or None.
    """
    shard, lecture = blocks
    return samples_from(ray.get(shard)), None if lecture is None else ray.get(lecture)
