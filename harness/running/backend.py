"""Where a run's replicas live: in this process (`inline`), or on Ray.

Torch is imported only where a model is loaded, Ray only where it is started.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Protocol

from harness.config.schema import RunConfig
from harness.engine.protocol import EngineFacts, Resources
from harness.planning.units import Shard
from harness.prompts.demonstrations import PoolDraw
from harness.running.messages import LectureTable, WorkerSpec
from harness.running.pool import Pool
from harness.running.stopping import StopFlag

OpenPool = AbstractContextManager[tuple[Pool, EngineFacts]]


class Backend(Protocol):
    """Makes pools of replicas, one model at a time."""

    n_replicas: int
    """Of the model that has the most."""
    replaces: bool
    """Whether a replica that hangs can be ended and replaced."""

    def pool(
        self,
        spec: WorkerSpec,
        draw: PoolDraw,
        shards: Sequence[Shard],
        lecture: Mapping[int, LectureTable],
        useful: int,
        stop: StopFlag,
    ) -> OpenPool:
        """Replicas of one model, and what the first says of itself; closed on exit.

        Args:
            spec: the run's settings.
            draw: policy and demonstration pool.
            shards: samples by their number.
            lecture: draws per seed for the lecture policy.
            useful: the most replicas that find work.
            stop: asked while replicas load.
        """
        ...


class InlineBackend:
    """One worker in this process, without Ray.

    Args:
        overlap: whether units overlap, see `harness.running.pipeline`; None where the worker has a GPU. On a
            CPU the threads would only take time from the model.
    """

    n_replicas = 1
    replaces = False

    def __init__(self, overlap: bool | None = None) -> None:
        self._overlap = overlap

    @contextmanager
    def pool(
        self,
        spec: WorkerSpec,
        draw: PoolDraw,
        shards: Sequence[Shard],
        lecture: Mapping[int, LectureTable],
        useful: int,
        stop: StopFlag,
    ) -> Iterator[tuple[Pool, EngineFacts]]:
        """See `Backend.pool`."""
        from harness.running.inline import InlinePool
        from harness.running.opening import open_worker

        worker = open_worker(spec, draw)
        overlap = worker.facts.device != "cpu" if self._overlap is None else self._overlap
        pool = InlinePool(worker, shards, lecture, overlap)
        try:
            yield pool, worker.facts
        finally:
            pool.close()


class RayBackend:
    """Replica actors on the Ray that this process has joined.

    Args:
        config: the run's settings.
        resources: what a replica of each model takes.
        overlap: as of `InlineBackend`; None where replicas have GPUs.
    """

    replaces = True

    def __init__(self, config: RunConfig, resources: Sequence[Resources], overlap: bool | None = None) -> None:
        from harness.cluster.session import choose_shape, live_nodes

        nodes = list(live_nodes().values())
        self._shapes = {one: choose_shape(config, one, nodes) for one in resources}
        self.n_replicas = max(shape.count for shape in self._shapes.values())
        self._overlap = overlap

    @contextmanager
    def pool(
        self,
        spec: WorkerSpec,
        draw: PoolDraw,
        shards: Sequence[Shard],
        lecture: Mapping[int, LectureTable],
        useful: int,
        stop: StopFlag,
    ) -> Iterator[tuple[Pool, EngineFacts]]:
        """See `Backend.pool`."""
        from harness.cluster.replicas import RayPool

        shape = self._shapes[spec.resources]
        overlap = shape.gpus > 0 if self._overlap is None else self._overlap
        spec = replace(spec, threads=shape.threads)
        pool = RayPool(spec, draw, shards, lecture, shape, useful, stop.is_set, overlap)
        try:
            stop.polled = True
            pool.wait_for_first()
            assert pool.facts is not None
            yield pool, pool.facts
        finally:
            pool.close()
            stop.polled = False


def check_reachable(config: RunConfig) -> None:
    """Refuse a cluster that does not answer, before anything long starts.

    Raises:
        ClusterError: nothing listens at `cluster.address`.
    """
    if config.cluster.address not in ("inline", "local"):
        from harness.cluster.session import check_listening

        check_listening(config.cluster.address)


@contextmanager
def open_backend(config: RunConfig, resources: Sequence[Resources]) -> Iterator[Backend]:
    """The backend that `cluster.address` names; Ray is imported only when it is needed.

    Args:
        config: the run's settings.
        resources: what a replica of each model takes.

    Raises:
        ClusterError: no cluster there, or it is too small.
    """
    if config.cluster.address == "inline":
        yield InlineBackend()
        return
    from harness.cluster.session import ray_session

    with ray_session(config.cluster.address):
        yield RayBackend(config, resources)
