"""The pool of Ray actors that the dispatch loop feeds.

The driver owns the retries: Ray restarts neither actors nor tasks, and so tells what ended a process. Refuses to
know in which words (`deaths`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import PurePosixPath
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from harness.cluster.actors import WATCHING, BrokenReplicaError, PipelinedReplicaActor, ReplicaActor
from harness.cluster.blocks import shard_refs
from harness.cluster.deaths import cause_of, ending_of, original_of
from harness.cluster.load_deaths import LoadDeaths
from harness.cluster.session import Head, ReplicaShape, can_hold, live_nodes, own_raylet, room_on_gpus
from harness.core.errors import BrokenDeviceError, Interrupted, ReplicaError
from harness.engine.protocol import EngineFacts
from harness.planning.units import Shard, WorkUnit
from harness.prompts.demonstrations import PoolDraw
from harness.results.quarantine import Ending
from harness.running import pipeline
from harness.running.messages import Handling, LectureTable, UnitReport, WorkerSpec
from harness.running.pool import UNITS_IN_FLIGHT, Replica, ReplicaDiedError

log = logging.getLogger(__name__)
MOST_FAILED_STARTS = 5
"""Processes in a row that end before they answer, for want of a package say, before the run stops."""
REST_S = 1.0
"""How long an actor that Ray cannot reach is left alone before it is asked again."""
LOOK_EVERY_S = 5.0
"""How often the pool looks whether nodes have joined."""
NODE_LABEL = "ray.io/node-id"
START_TIMEOUT_S = 20.0
"""How long the first replica may wait for its resources before the run says so."""


class RayReplica:
    """The driver's side of one actor."""

    def __init__(self, name: str, actor: Any, shards: Sequence[Any], lecture: Mapping[int, Any]) -> None:
        self.name = name
        self.actor = actor
        self.ready = False
        self.node, self.host = "", ""
        self._shards = shards
        self._lecture = lecture

    def submit(self, unit: WorkUnit, handling: Handling | None) -> Any:
        """Send a unit with references to its shard and draws."""
        blocks = [self._shards[unit.shard], None if unit.seed is None else self._lecture.get(unit.seed)]
        return self.actor.run_unit.remote(unit, blocks, handling, self.name)


class RayPool:
    """The replicas of one model.

    Args:
        spec: the run's settings for the actors.
        draw: put into the object store once, whatever the number of replicas.
        shards: samples; they become blocks of a Ray Dataset.
        lecture: draws per seed for the lecture policy.
        shape: how many replicas, and what each takes.
        useful: the most replicas that find work.
        should_stop: asked while replicas load.
        overlap: whether a replica's units overlap; see `harness.running.pipeline`.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        draw: PoolDraw,
        shards: Sequence[Shard],
        lecture: Mapping[int, LectureTable],
        shape: ReplicaShape,
        useful: int,
        should_stop: Callable[[], bool],
        overlap: bool,
    ) -> None:
        watching: Any = {"concurrency_groups": {WATCHING: 1}}
        self._actor_class = ray.remote(PipelinedReplicaActor) if overlap else ray.remote(**watching)(ReplicaActor)
        self.units_in_flight = pipeline.UNITS_IN_FLIGHT if overlap else UNITS_IN_FLIGHT
        self._spec, self._shape, self._should_stop = spec, shape, should_stop
        # Without GPUs more nodes would mean other shares of processors.
        self._may_grow = spec.config.cluster.chosen_replicas is None and shape.gpus > 0
        self._useful = useful
        self._head = Head(ray.get_runtime_context().gcs_address, raylet=own_raylet())
        self._looked = time.monotonic()
        self._avoided: dict[str, str] = {}
        self._names = count()
        self._draw = ray.put(draw)
        self._shards = shard_refs(shards)
        self._lecture = {seed: ray.put(dict(table)) for seed, table in lecture.items()}
        self._failed_starts = 0
        self._load_deaths = LoadDeaths()
        self._asked: dict[Any, RayReplica] = {}
        self._loading: dict[Any, RayReplica] = {}
        self._resting: dict[RayReplica, float] = {}
        self._cut_off: set[str] = set()
        self._watched: dict[Any, RayReplica] = {}
        self._through: dict[RayReplica, dict[str, int]] = {}
        self._replicas = [self._start() for _ in range(min(useful, shape.count))]
        self._started = time.monotonic()
        self.facts: EngineFacts | None = None

    def replicas(self, useful: int) -> Sequence[Replica]:
        """Replicas whose model is loaded; starts more when nodes have joined."""
        self._collect_loaded(0)
        self._grow(useful)
        ready = [replica for replica in self._replicas if replica.ready]
        if len(ready) > useful:
            for late in [replica for replica in self._replicas if not replica.ready]:
                self.release(late)
        return ready

    def wait(self, handles: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Finished units among the handles, in their order; wakes up for replicas that finished loading too."""
        watched = [*handles, *self._asked, *self._loading]
        if not watched:
            time.sleep(timeout_s)
            return []
        done, others = ray.wait(watched, num_returns=1, timeout=timeout_s)
        if done and others:
            # A call costs by the handles it watches, so whatever else is done by now is taken along.
            done += ray.wait(others, num_returns=len(others), timeout=0)[0]
        found = set(done)
        return [handle for handle in handles if handle in found]

    def result(self, handle: Any) -> UnitReport:
        """See `harness.running.pool.Pool.result`."""
        try:
            report: UnitReport = ray.get(handle)
            return report
        except RayTaskError as error:
            if isinstance(error.cause, BrokenReplicaError):
                raise ReplicaDiedError(str(error.cause)) from None
            raise original_of(error) from None
        except ActorUnavailableError as error:
            # Ray restarts no replica: something between here and there is broken.
            self._cut_off.add(error.actor_id)
            raise ReplicaDiedError(cause_of(error), Ending.NODE) from None
        except RayError as error:
            raise ReplicaDiedError(cause_of(error), ending_of(error)) from None

    def under_way(self) -> dict[str, int]:
        """See `harness.running.pool.Pool.under_way`: what replicas answered last, while they are asked anew."""
        for handle in ray.wait([*self._watched], num_returns=len(self._watched), timeout=0)[0] if self._watched else ():
            replica = self._watched.pop(handle)
            with suppress(RayError):  # the loop that runs its units learns of that
                self._through[replica] = ray.get(handle)
        asked, ready = set(self._watched.values()), [replica for replica in [*self._replicas] if replica.ready]
        self._watched |= {one.actor.under_way.remote(): one for one in ready if one not in asked}
        counts: dict[str, int] = {}
        for replica in ready:
            for unit_id, n in self._through.get(replica, {}).items():
                counts[unit_id] = max(n, counts.get(unit_id, 0))
        return counts

    def replace(self, replica: Replica) -> None:
        """Start another in the place of one that died, or whose device did; ask one that could not be reached."""
        assert isinstance(replica, RayReplica)
        self._looked = -LOOK_EVERY_S  # what ended it may have ended more
        if replica.actor._actor_id.hex() in self._cut_off:
            self._cut_off.discard(replica.actor._actor_id.hex())
            replica.ready = False
            self._ask(replica)
        else:
            self._end_and_start(replica)

    def release(self, replica: Replica) -> None:
        """End a replica that finds no more work, so that its node can go."""
        assert isinstance(replica, RayReplica)
        self._replicas.remove(replica)
        self._asked = {handle: r for handle, r in self._asked.items() if r is not replica}
        self._loading = {handle: r for handle, r in self._loading.items() if r is not replica}
        self._resting.pop(replica, None)
        self._may_grow = False
        ray.kill(replica.actor, no_restart=True)

    def _grow(self, useful: int) -> None:
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        if not self._head.answers() or not self._may_grow:
            return
        nodes = [resources for node, resources in live_nodes().items() if node not in self._avoided]
        wanted = min(useful, room_on_gpus(self._spec.config, self._shape.gpus, nodes))
        if wanted > len(self._replicas):
            log.info("the cluster has grown: %d replicas instead of %d", wanted, len(self._replicas))
            self._replicas += [self._start() for _ in range(wanted - len(self._replicas))]

    def close(self) -> None:
        """End all replicas at once."""
        if self._head.is_lost:
            return
        for replica in self._replicas:
            ray.kill(replica.actor, no_restart=True)

    def _start(self) -> RayReplica:
        number = next(self._names)
        options: dict[str, Any] = {"scheduling_strategy": "SPREAD"}
        if self._avoided:
            options = {"label_selector": {NODE_LABEL: f"!in({','.join(self._avoided)})"}}
        if self._spec.config.cluster.accelerator_type is not None:
            options["accelerator_type"] = self._spec.config.cluster.accelerator_type
        actor: Any = self._actor_class.options(
            name=f"{PurePosixPath(self._spec.model.name).name}-replica-{number}",
            num_gpus=self._shape.gpus,
            num_cpus=self._shape.cpus,
            max_restarts=0,
            max_task_retries=0,
            **options,
        ).remote()
        replica = RayReplica(f"replica {number} of {self._spec.model.name}", actor, self._shards, self._lecture)
        self._ask(replica)
        return replica

    def _end_and_start(self, replica: RayReplica) -> None:
        """Another process in the place of one that lives but is of no use."""
        ray.kill(replica.actor, no_restart=True)
        self._replicas[self._replicas.index(replica)] = self._start()

    def _ask(self, replica: RayReplica) -> None:
        """Ask the process where it is: once it answers, a death is one of loading."""
        self._asked[replica.actor.node.remote()] = replica

    def wait_for_first(self) -> None:
        """Return when one replica has loaded its model; the others join as they are ready."""
        warned = False
        while not any(replica.ready for replica in self._replicas):
            if self._should_stop():
                raise Interrupted
            self._collect_loaded(0.5)
            self._grow(self._useful)
            waits = time.monotonic() - self._started > START_TIMEOUT_S and not self._loading
            if waits and not warned and self._head.answers():
                warned = True
                log.warning("%s", self._waiting_words())

    def _waiting_words(self) -> str:
        """What the first replica waits for."""
        free, there = ray.available_resources(), ray.cluster_resources()
        kind = "GPU" if self._shape.gpus else "CPU"
        needed = self._shape.gpus or self._shape.cpus
        return (
            f"no replica has started after {START_TIMEOUT_S:.0f} s: each takes {needed:g} {kind} of one node, "
            f"{free.get(kind, 0.0):g} of {there.get(kind, 0.0):g} are free; the run goes on when other jobs leave room "
            "(Ctrl-C stops it)"
        )

    def _collect_loaded(self, timeout_s: float) -> None:
        """Take one step with each replica that is on its way: asked, loading, ready."""
        for replica in [r for r, due in self._resting.items() if due <= time.monotonic()]:
            del self._resting[replica]
            self._ask(replica)
        watched = [*self._asked, *self._loading]
        most = 1 if timeout_s else len(watched)
        done = ray.wait(watched, num_returns=most, timeout=timeout_s)[0] if watched else []
        for handle in done:
            if handle in self._asked:
                self._take_answer(self._asked.pop(handle), handle)
            else:
                self._take_loaded(self._loading.pop(handle), handle)

    def _take_answer(self, replica: RayReplica, handle: Any) -> None:
        try:
            replica.node, host = ray.get(handle)
            replica.host = f"{host} ({replica.node[:8]})"
        except ActorUnavailableError:
            # Something between here and there is broken: ask again when that has had time.
            self._resting[replica] = time.monotonic() + REST_S
        except RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= MOST_FAILED_STARTS:
                text = f"{self._failed_starts} replicas in a row died while their processes started"
                raise ReplicaError(f"{text}; last cause: {cause_of(error)}") from None
            log.warning("%s is gone, another is started: %s", replica.name, cause_of(error))
            self._replicas[self._replicas.index(replica)] = self._start()
        else:
            self._failed_starts = 0
            self._loading[replica.actor.load.remote(self._spec, self._draw)] = replica

    def _take_loaded(self, replica: RayReplica, handle: Any) -> None:
        try:
            facts: EngineFacts = ray.get(handle)
        except RayTaskError as error:
            cause = original_of(error)
            if isinstance(cause, BrokenDeviceError):
                self._count_failed_load(replica, cause, None)
            else:
                self._avoid(replica, cause)
        except RayError as error:
            self._count_failed_load(replica, error, ending_of(error))
        else:
            replica.ready = True
            self._load_deaths.loaded(replica.node)
            self.facts = self.facts or facts

    def _count_failed_load(self, replica: RayReplica, error: Exception, ending: Ending | None) -> None:
        """Try again where a process died, or lost its device, while loading; not for ever."""
        times = self._load_deaths.died(replica.node, ending)
        log.warning("%s died while loading on node %s: %s", replica.name, replica.host, cause_of(error))
        if times is not None:
            text = f"replicas died {times} times in a row while loading on node {replica.host}"
            self._avoid(replica, ReplicaError(f"{text}; last cause: {cause_of(error)}"))
        else:
            self._end_and_start(replica)

    def _avoid(self, replica: RayReplica, error: Exception) -> None:
        """Go on without a node where the model does not load, as long as there are others."""
        self._avoided[replica.node] = replica.host
        config, shape = self._spec.config, self._shape
        others = {other for other, resources in live_nodes().items() if can_hold(config, shape, resources)}
        if not others - set(self._avoided):
            raise error
        log.warning(
            "%s does not load on node %s, which is avoided from now on: %s", self._spec.model.name, replica.host, error
        )
        self._end_and_start(replica)
