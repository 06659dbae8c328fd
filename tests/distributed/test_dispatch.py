"""The dispatch loop against fake replicas."""

from __future__ import annotations

import pytest

from harness.core.errors import ModelError, ReplicaError
from harness.planning.units import WorkUnit
from harness.results.schema import UnitStatistics
from harness.running.dispatch import UNITS_IN_FLIGHT, ReplicaDiedError, dispatch
from harness.running.failures import (
    MOST_ATTEMPTS,
    MOST_IDLE_DEATHS,
    MOST_QUARANTINED,
    Decision,
    after_replica_death,
    after_unit_error,
    is_straggler,
)
from harness.running.messages import Care, UnitReport
from harness.running.stopping import Interrupted
from tests.distributed.feeding import feed, unit

STATISTICS = UnitStatistics(1, 0, 1, 10, 5, 0.1, 0.1)


def units(count: int) -> list[WorkUnit]:
    return [unit(f"u{i}") for i in range(count)]


class FakeReplica:
    def __init__(self, name: str, pool: FakePool) -> None:
        self.name, self.pool, self.alive = name, pool, True

    def submit(self, unit: WorkUnit, care: Care | None) -> tuple[str, int]:
        handle = (unit.id, self.pool.submitted)
        self.pool.submitted += 1
        self.pool.queue.append((handle, unit, self))
        self.pool.cares.append((unit.id, care))
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
        self.released: list[str] = []
        self.units_in_flight = UNITS_IN_FLIGHT
        self.cares: list[tuple[str, Care | None]] = []

    def replicas(self, useful):
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

    def release(self, replica):
        self.released.append(replica.name)
        self.members.remove(replica)


def run(pool: FakePool, count: int, should_stop=lambda: False) -> list[str]:
    done: list[str] = []
    dispatch(feed(units(count)), pool, lambda unit, report: done.append(unit.id), should_stop)
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
        dispatch(feed(units(10)), FakePool(["a"]), lambda unit, report: done.append(unit.id), lambda: len(done) >= 3)
    assert done == ["u0", "u1", "u2"]


def test_a_sample_that_kills_its_replica_is_found_quarantined_and_the_rest_is_done():
    deaths = {"u1": [ReplicaDiedError("segfault")] * 3}
    pool = FakePool(["a"], deaths)
    done: list[str] = []
    dispatch(feed(units(4)), pool, lambda unit, report: done.append(unit.id), lambda: False, lambda unit: "bad sample")
    assert sorted(done) == ["u0", "u1", "u2", "u3"]
    cares = [care for unit, care in pool.cares if unit == "u1"]
    assert cares == [None, Care(), Care(), Care(("bad sample",))]
    assert all(care is None for unit, care in pool.cares if unit != "u1")


def test_the_unit_that_was_running_is_blamed_whichever_is_reported_first():
    class Backwards(FakePool):
        """One process: units run in turn; when it dies, the last of its units is reported first."""

        def wait(self, handles, timeout_s):
            dies = self.queue[0][1].id == "u1" and self.deaths > 0
            return [self.queue[-1 if dies else 0][0]]

        def result(self, handle):
            if self.queue[0][1].id == "u1" and self.deaths > 0:
                self.deaths -= 1
                self.queue.clear()
                raise ReplicaDiedError("segfault")
            return super().result(handle)

    pool = Backwards(["a"])
    pool.deaths = 3
    dispatch(feed(units(4)), pool, lambda unit, report: None, lambda: False, lambda unit: "bad sample")
    assert {unit for unit, care in pool.cares if care is not None} == {"u1"}


def test_a_unit_full_of_killers_stops_the_run_in_the_end():
    culprits = (f"s{i}" for i in range(1000) for _ in range(2))
    pool = FakePool(["a"], {"u1": [ReplicaDiedError("segfault")] * 1000})
    with pytest.raises(ReplicaError, match="segfault"):
        dispatch(feed(units(3)), pool, lambda unit, report: None, lambda: False, lambda unit: next(culprits))
    assert max(len(care.quarantined) for _, care in pool.cares if care) == MOST_QUARANTINED


class NodePool(FakePool):
    """All replicas are on one node, which dies so many times, with all units that it has by then."""

    def __init__(self, names: list[str], deaths: int) -> None:
        super().__init__(names)
        self.deaths = deaths
        self.dead: set = set()

    def wait(self, handles, timeout_s):
        if self.deaths and not self.dead and len(handles) == 2 * len(self.members):
            self.deaths -= 1
            self.dead = set(handles)
        return list(handles)[:1]

    def result(self, handle):
        if handle in self.dead:
            self.dead -= {entry[0] for entry in self.queue if entry[2] is self.member_of(handle)}
            raise ReplicaDiedError("node died")
        return super().result(handle)

    def member_of(self, handle):
        return next(entry[2] for entry in self.queue if entry[0] == handle)


def test_a_node_with_many_replicas_that_dies_again_and_again_counts_as_one_death_each_time():
    pool = NodePool(list("abcdefgh"), deaths=MOST_IDLE_DEATHS - 1)
    done: list[str] = []
    dispatch(feed(units(30)), pool, lambda unit, report: done.append(unit.id), lambda: False)
    assert sorted(done) == sorted(f"u{i}" for i in range(30))
    assert len(pool.replaced) == 8 * (MOST_IDLE_DEATHS - 1)
    with pytest.raises(ReplicaError, match=f"died {MOST_IDLE_DEATHS} times without progress.*node died"):
        run(NodePool(list("abcdefgh"), deaths=MOST_IDLE_DEATHS), 30)


def test_units_that_died_along_with_another_are_not_taken_with_care():
    pool = NodePool(["a", "b", "c"], deaths=1)
    run(pool, 12)
    assert {unit for unit, care in pool.cares if care is not None} == {"u0"}


class SlowPool(FakePool):
    """The replica `a` never finishes what it began with; time goes by a second per look."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.now = 0.0

    def wait(self, handles, timeout_s):
        self.now += 1
        able = [entry[0] for entry in self.queue if entry[2].name != "a" and entry[0] in handles]
        return able[:1]


def test_a_unit_that_drags_on_is_given_to_another_and_counted_once():
    pool = SlowPool(["a", "b"])
    done: list[str] = []
    dispatch(feed(units(8)), pool, lambda unit, report: done.append(unit.id), lambda: False, clock=lambda: pool.now)
    assert sorted(done) == sorted(f"u{i}" for i in range(8))
    assert pool.submitted == 8 + 2, "the two units of the stuck replica, once more each"


def test_replicas_that_can_help_no_more_are_released():
    pool = SlowPool(["a", "b", "c", "d"])
    dispatch(feed(units(9)), pool, lambda unit, report: None, lambda: False, clock=lambda: pool.now)
    assert pool.released
    assert "a" not in pool.released


def test_policy_retries_within_its_bounds_only():
    assert after_replica_death(0, 0, 0, 1) is Decision.RETRY
    assert after_replica_death(1, 0, 0, 1) is Decision.CAREFUL
    assert after_replica_death(2, 1, 0, 2) is Decision.CAREFUL
    assert after_replica_death(3, 2, 0, 3) is Decision.QUARANTINE
    assert after_replica_death(9, 2, MOST_QUARANTINED, 2) is Decision.STOP
    assert after_replica_death(1, 0, 0, MOST_IDLE_DEATHS) is Decision.STOP
    assert after_unit_error(MOST_ATTEMPTS - 1) is Decision.RETRY
    assert after_unit_error(MOST_ATTEMPTS) is Decision.STOP
    assert is_straggler(61, [20, 20, 20])
    assert not is_straggler(59, [20, 20, 20])
    assert not is_straggler(15, [1, 1])
    assert not is_straggler(1000, [])


class OverlappingPool(FakePool):
    """One process whose units overlap: the killer ends it as soon as it is among the first three.

    A unit taken with care overlaps no other. The killer's own sample does it again when it is taken with care.
    """

    def __init__(self, killer: str) -> None:
        super().__init__(["a"])
        self.units_in_flight = 3
        self.killer = killer
        self.deaths = 0

    def wait(self, handles, timeout_s):
        self.most_in_flight = max(self.most_in_flight, len(handles))
        return [handles[0]]

    def result(self, handle):
        cares = dict(self.cares)
        first = self.queue[0][1].id
        with_care = cares[first]
        begun = [first] if with_care is not None else [unit.id for _, unit, _ in self.queue[:3]]
        if self.killer in begun and not (with_care and with_care.quarantined):
            self.deaths += 1
            self.queue.clear()
            raise ReplicaDiedError("segfault")
        return super().result(handle)


@pytest.mark.parametrize("killer", ["u0", "u1", "u2", "u5"])
def test_where_units_overlap_the_sample_that_kills_is_found_too_and_everything_is_done(killer):
    pool = OverlappingPool(killer)
    done: list[str] = []

    def suspect_of(unit):
        return "bad sample" if unit.id == killer else None

    dispatch(feed(units(6)), pool, lambda unit, report: done.append(unit.id), lambda: False, suspect_of)
    assert sorted(done) == [f"u{i}" for i in range(6)]
    assert pool.most_in_flight == 3
    quarantined = {unit: care.quarantined for unit, care in pool.cares if care is not None and care.quarantined}
    assert quarantined == {killer: ("bad sample",)}
    assert pool.deaths <= 3 + 2, "once in its unit, twice by itself, and once per unit that was before it"
