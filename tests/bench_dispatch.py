"""What handing out units costs: replicas that sleep for a fixed time, on a real Ray and on none.

    make bench-dispatch
    python tests/bench_dispatch.py ideal 2        # or 16: one of its stages
    python tests/bench_dispatch.py cost 1000      # or 1, 16, 64, 256
    python tests/bench_dispatch.py loop

`ideal N` takes the run's own pool of N Ray actors, each on a fake GPU, that sleep half a second per unit:
the wall time of 200 units after start-up against the least possible. `cost N` does the same with N
replicas that are threads of a few actors, in units of three seconds, and counts the processor time that
the driver's process takes per unit, Ray's own threads in it included. `loop` leaves Ray out: the
dispatch loop alone, where the time of replicas passes on a simulated clock and that of the driver on the
real one.
"""

from __future__ import annotations

import heapq
import math
import os
import resource
import subprocess
import sys
import time
from itertools import count

from harness.config.loading import config_from
from harness.core.task import Sample
from harness.engine.protocol import EngineFacts
from harness.planning.units import Shard, WorkUnit
from harness.prompts.demonstrations import Pool, PoolDraw
from harness.prompts.draws import FixedDraw
from harness.results.schema import UnitStatistics
from harness.running.dispatch import Timing, dispatch
from harness.running.messages import UnitReport, WorkerSpec
from harness.running.pool import UNITS_IN_FLIGHT
from tests.distributed.feeding import feed

REPLICAS = (1, 16, 64, 256, 1000)
UNIT_S = 0.5
UNITS = 200
COST_UNIT_S = 3.0
ROUNDS = 4
"""Units per replica in `cost` and `loop`."""
LONG_UNIT_S = 30.0
THREADS = 125
"""Replicas per actor in `cost`."""


def report(unit_id: str, seconds: float) -> UnitReport:
    return UnitReport(unit_id, UnitStatistics(1, 0, 1, 1, 1, seconds, seconds))


def make_units(n: int) -> list[WorkUnit]:
    return [WorkUnit(f"{i:032x}", "sleeper", "nsmc", "lecture_1", 1, (0, 1, 2, 4), tuple("abcd"), 0) for i in range(n)]


# Without Ray ------------------------------------------------------------------------------------------------------


class SimulatedReplica:
    def __init__(self, name: str, pool: SimulatedPool) -> None:
        self.name, self.pool, self.free_at = name, pool, 0.0

    def submit(self, unit, handling):
        self.free_at = max(self.free_at, self.pool.clock()) + self.pool.unit_s
        handle = next(self.pool.numbers)
        heapq.heappush(self.pool.due, (self.free_at, handle))
        self.pool.units[handle] = unit.id
        return handle


class SimulatedPool:
    """Replicas whose time passes at once when the driver has nothing else to do."""

    units_in_flight = UNITS_IN_FLIGHT

    def __init__(self, n: int, unit_s: float) -> None:
        self.unit_s, self.skipped, self.numbers = unit_s, 0.0, count()
        self.due: list[tuple[float, int]] = []
        self.units: dict[int, str] = {}
        self.done: set[int] = set()
        self.members = [SimulatedReplica(f"replica {i}", self) for i in range(n)]

    def clock(self) -> float:
        return time.perf_counter() + self.skipped

    def replicas(self, useful):
        return list(self.members)

    def wait(self, handles, timeout_s):
        self.skipped += max(0.0, min(timeout_s, self.due[0][0] - self.clock()))
        now, found = self.clock(), []
        while self.due and self.due[0][0] <= now:
            found.append(heapq.heappop(self.due)[1])
        return found

    def result(self, handle):
        return report(self.units.pop(handle), self.unit_s)

    def release(self, replica):
        self.members.remove(replica)


def loop() -> None:
    print(f"dispatch loop without Ray, units of {LONG_UNIT_S:g} s, {ROUNDS} per replica")
    for n in REPLICAS:
        units = make_units(max(UNITS, ROUNDS * n))
        pool = SimulatedPool(n, LONG_UNIT_S)
        began, clock = time.process_time(), pool.clock()
        dispatch(feed(units), pool, lambda unit, report: None, lambda: False, timing=Timing(clock=pool.clock))
        spent, wall = time.process_time() - began, pool.clock() - clock
        ideal = math.ceil(len(units) / n) * LONG_UNIT_S
        print(
            f"{n:5d} replicas {len(units):6d} units: {spent / len(units) * 1e3:6.3f} ms of the driver per unit, "
            f"{wall / ideal:.3f} x the ideal time"
        )


# With Ray ---------------------------------------------------------------------------------------------------------


class Sleeper:
    """Takes the place of the actor's body: no model, the same calls."""

    def load(self, spec, draw):
        import harness.planning.units  # noqa: F401  a real replica has imported far more by then

        return EngineFacts("none", "none")

    def node(self):
        return "node", "host"

    def run_unit(self, unit, blocks, handling, name):
        time.sleep(UNIT_S)
        return report(unit.id, UNIT_S)

    def long_unit(self, unit, blocks, handling, name):
        time.sleep(COST_UNIT_S)
        return report(unit.id, COST_UNIT_S)


def open_pool(n: int):
    """The run's own pool of replicas with a fake GPU each."""
    import ray

    from harness.cluster import replicas
    from harness.cluster.session import ReplicaShape

    ray.init(
        address="local", num_cpus=2, num_gpus=n, include_dashboard=False, log_to_driver=False,
        object_store_memory=256 * 2**20, logging_level="ERROR",
    )  # fmt: skip
    replicas.ReplicaActor = Sleeper
    config = config_from({"model": {"path": "sleeper"}, "task": {"name": "nsmc", "data_dir": "none"}})
    spec = WorkerSpec(config, config.entries[0], "likelihood", {}, None, 1)
    draw = PoolDraw(Pool((), 2, "document"), FixedDraw())
    shards = [Shard(0, (Sample("s", {"document": "text"}, 0),), "0")]
    return replicas.RayPool(spec, draw, shards, {}, ReplicaShape(n, 1, 0, None), n, lambda: False, False)


def ideal(n: int) -> None:
    pool = open_pool(n)
    while len(pool.replicas(n)) < n:
        time.sleep(0.1)
    units = make_units(UNITS)
    began = time.perf_counter()
    dispatch(feed(units), pool, lambda unit, report: None, lambda: False)
    wall, least = time.perf_counter() - began, math.ceil(UNITS / n) * UNIT_S
    print(f"{n:3d} replicas, {UNITS} units of {UNIT_S:g} s: {wall:.2f} s, ideal {least:.2f} s, {wall / least:.3f} x")


def cost(n: int) -> None:
    """Replicas share actors, several threads to each, so that a thousand fit on a small machine."""
    import ray

    from harness.cluster.replicas import RayReplica

    pool = open_pool(1)
    while not pool.replicas(1):
        time.sleep(0.1)
    (first,) = pool._replicas
    sleeper = ray.remote(Sleeper)
    bodies = [
        sleeper.options(num_cpus=0, max_concurrency=min(n, THREADS)).remote() for _ in range(math.ceil(n / THREADS))
    ]
    ray.get([body.node.remote() for body in bodies])
    members = []
    for i in range(n):
        body = bodies[i % len(bodies)]
        replica = RayReplica(f"replica {i}", Shared(body), first._shards, {})
        replica.ready = True
        members.append(replica)
    pool._replicas = members
    pool.release = members.remove
    units = make_units(ROUNDS * n)
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    dispatch(feed(units), pool, lambda unit, report: None, lambda: False)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"{n:5d} replicas, {len(units):5d} units of {COST_UNIT_S:g} s: {spent / len(units) * 1e3:6.3f} ms of the "
        f"driver's process per unit, {wall:.1f} s, {wall / (ROUNDS * COST_UNIT_S):.3f} x the ideal time",
        flush=True,
    )
    os._exit(0)


class Shared:
    """An actor's handle whose units take the time of `long_unit`."""

    def __init__(self, actor) -> None:
        self.run_unit = actor.long_unit


def main(words: list[str]) -> None:
    if not words:
        stages = [["loop"], ["ideal", "2"], ["ideal", "16"], *(["cost", str(n)] for n in REPLICAS)]
        for stage in stages:
            subprocess.run([sys.executable, __file__, *stage], check=True)
    elif words[0] == "loop":
        loop()
    else:
        {"ideal": ideal, "cost": cost}[words[0]](int(words[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
