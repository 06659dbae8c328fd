"""The dispatch loop against fake replicas."""

from __future__ import annotations

import pytest

from harness.distributed.dispatch import ReplicaDiedError, dispatch
from harness.distributed.messages import UnitReport
from harness.distributed.policy import MOST_ATTEMPTS, Decision, after_replica_death, after_unit_error
from harness.errors import ModelError, ReplicaError
from harness.grid import WorkUnit
from harness.results.schema import UnitStatistics
from harness.stopping import Interrupted

STATISTICS = UnitStatistics(1, 0, 1, 10, 5, 0.1, 0.1)


def units(count: int) -> list[WorkUnit]:
    return [WorkUnit(f"u{i}", "m", "nsmc", "t", 1, (0,), (1,), 0) for i in range(count)]


class FakeReplica:
    def __init__(self, name: str, pool: FakePool) -> None:
        self.name, self.pool, self.alive = name, pool, True

    def submit(self, unit: WorkUnit) -> tuple[str, int]:
        handle = (unit.id, self.pool.submitted)
        self.pool.submitted += 1
        self.pool.queue.append((handle, unit, self))
        return handle


class FakePool:
    """Finishes units in the order of submission; `script` maps a unit to what its tries raise."""

    def __init__(self, names: list[str], script: dict[str, list[Exception]] | None = None) -> None:
        self.members = [FakeReplica(name, self) for name in names]
        self.script = script or {}
        self.queue: list = []
        self.submitted = 0
        self.most_in_flight = 0
        self.replaced: list[str] = []

    def replicas(self):
        return [replica for replica in self.members if replica.alive]

    def wait(self, handles, timeout_s):
        self.most_in_flight = max(self.most_in_flight, len(handles))
        return list(handles)[:1]

    def result(self, handle):
        entry = next(e for e in self.queue if e[0] == handle)
        self.queue.remove(entry)
        _, unit, replica = entry
        errors = self.script.get(unit.id, [])
        if errors:
            error = errors.pop(0)
            if isinstance(error, ReplicaDiedError):
                self.queue = [e for e in self.queue if e[2] is not replica]
            raise error
        return UnitReport(unit.id, STATISTICS)

    def replace(self, replica):
        self.replaced.append(replica.name)


def run(pool: FakePool, count: int, should_stop=lambda: False) -> list[str]:
    done: list[str] = []
    dispatch(units(count), pool, lambda unit, report: done.append(unit.id), should_stop)
    return done


def test_every_unit_is_done_once_with_two_in_flight_per_replica():
    pool = FakePool(["a", "b", "c"])
    assert sorted(run(pool, 20)) == sorted(f"u{i}" for i in range(20))
    assert pool.most_in_flight == 6


def test_units_of_a_dead_replica_are_done_by_others_and_none_twice():
    pool = FakePool(["a", "b"], {"u3": [ReplicaDiedError("killed")], "u7": [ReplicaDiedError("killed")]})
    done = run(pool, 12)
    assert sorted(done) == sorted(f"u{i}" for i in range(12))
    assert len(pool.replaced) == 2


def test_a_unit_that_always_kills_its_replica_stops_the_run_with_the_cause():
    pool = FakePool(["a"], {"u1": [ReplicaDiedError("segfault")] * 50})
    with pytest.raises(ReplicaError, match="segfault"):
        run(pool, 4)


def test_a_unit_error_is_retried_and_then_stops_the_run():
    assert len(run(FakePool(["a"], {"u1": [OSError("disk full")]}), 3)) == 3
    with pytest.raises(ReplicaError, match="disk full"):
        run(FakePool(["a"], {"u1": [OSError("disk full")] * MOST_ATTEMPTS}), 3)


def test_a_users_mistake_is_not_retried():
    pool = FakePool(["a"], {"u0": [ModelError("no weights")]})
    with pytest.raises(ModelError, match="no weights"):
        run(pool, 3)
    assert pool.submitted <= 2


def test_a_stop_between_units_keeps_what_is_done():
    done: list[str] = []
    with pytest.raises(Interrupted):
        dispatch(units(10), FakePool(["a"]), lambda unit, report: done.append(unit.id), lambda: len(done) >= 3)
    assert done == ["u0", "u1", "u2"]


def test_policy_retries_within_its_bounds_only():
    assert after_replica_death(1, 1) is Decision.RETRY
    assert after_replica_death(MOST_ATTEMPTS, 1) is Decision.STOP
    assert after_replica_death(1, 5) is Decision.STOP
    assert after_unit_error(MOST_ATTEMPTS - 1) is Decision.RETRY
    assert after_unit_error(MOST_ATTEMPTS) is Decision.STOP
