"""Handing out units does not slow down as replicas become many."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from harness.results.quarantine import Ending
from harness.running.dispatch import dispatch
from harness.running.pool import UNITS_IN_FLIGHT, ReplicaDiedError
from tests.distributed.feeding import feed
from tests.distributed.test_dispatch import FakePool, units


class Together(FakePool):
    """Whatever is under way finishes at the same moment."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.rounds = 0

    def replicas(self, useful):
        self.rounds += 1
        return super().replicas(useful)

    def wait(self, handles, timeout_s):
        super().wait(handles, timeout_s)
        return list(handles)


def test_units_that_finish_together_are_taken_and_replaced_in_one_round():
    pool = Together([f"r{i}" for i in range(100)])
    done: list[str] = []
    dispatch(feed(units(1000)), pool, lambda unit, report: done.append(unit.id), lambda: False)
    assert sorted(done) == sorted(f"u{i}" for i in range(1000))
    assert pool.most_in_flight == 100 * UNITS_IN_FLIGHT
    assert pool.rounds == 1000 / pool.most_in_flight


def test_one_look_at_ray_finds_all_that_is_done_in_the_order_of_sending(shared_ray):
    import ray

    from harness.cluster.replicas import RayPool

    @ray.remote(num_cpus=0)
    class Slow:
        def never(self):
            import time

            time.sleep(600)

    slow = Slow.remote()
    done = [ray.put(i) for i in range(20)]
    handles = [*done[:7], slow.never.remote(), *done[7:]]
    assert RayPool.wait(SimpleNamespace(_asked={}, _loading={}), handles, 30) == done
    ray.kill(slow)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 16])
def test_sleeping_replicas_finish_near_the_ideal_time(n):
    """The benchmark's own stage; what is near is for it to tell, on a quiet machine."""
    done = subprocess.run(
        [sys.executable, "tests/bench_dispatch.py", "ideal", str(n)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    ratio = float(done.stdout.split()[-2])
    assert 1 <= ratio < 1.5


def test_a_replica_that_cannot_be_reached_is_asked_again_and_not_ended(monkeypatch):
    import ray
    from ray.exceptions import ActorUnavailableError

    from harness.cluster.replicas import RayPool, RayReplica

    number = bytes(range(16))

    def get(handle):
        raise ActorUnavailableError("socket closed", number)

    monkeypatch.setattr(ray, "get", get)
    asked, ended = [], []
    pool = SimpleNamespace(_cut_off=set(), _looked=0.0, _ask=asked.append, _end_and_start=ended.append)
    with pytest.raises(ReplicaDiedError, match="socket closed") as raised:
        RayPool.result(pool, "handle")
    assert raised.value.ending is Ending.NODE, "no evidence against a sample"
    replica = RayReplica("r", SimpleNamespace(_actor_id=number), [], {})
    RayPool.replace(pool, replica)
    assert (asked, ended) == ([replica], [])
    RayPool.replace(pool, replica)
    assert (asked, ended) == ([replica], [replica]), "dead this time"
