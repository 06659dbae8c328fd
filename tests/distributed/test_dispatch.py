"""The dispatch loop against fake replicas."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from harness.core.errors import Interrupted, ModelError, ReplicaError
from harness.planning.units import WorkUnit
from harness.results.quarantine import Quarantine
from harness.results.schema import UnitStatistics
from harness.running.dispatch import Timing, dispatch
from harness.running.failures import (
    MOST_ATTEMPTS,
    MOST_IDLE_DEATHS,
    MOST_QUARANTINED,
    Decision,
    Pace,
    after_replica_death,
    after_unit_error,
    is_straggler,
)
from harness.running.messages import Handling, Note, UnitReport
from harness.running.pool import UNITS_IN_FLIGHT, ReplicaDiedError
from harness.running.precautions import MOST_TRYING, Precautions
from tests.distributed.feeding import feed, unit

STATISTICS = UnitStatistics(1, 0, 1, 10, 5, 0.1, 0.1)


def blaming(sample_of, shards=(("bad sample", "good sample"),)) -> Precautions:
    """Precautions of units that are noted to be at a sample, each time by another process."""
    processes = (f"host/{n}" for n in range(10**6))

    def note_of(unit):
        sample = sample_of(unit)
        return Note(sample, next(processes)) if sample else None

    return Precautions(shards, Quarantine(), note_of)


def units(count: int) -> list[WorkUnit]:
    return [unit(f"u{i}") for i in range(count)]


class FakeReplica:
    def __init__(self, name: str, pool: FakePool) -> None:
        self.name, self.pool, self.alive = name, pool, True

    def submit(self, unit: WorkUnit, handling: Handling | None) -> tuple[str, int]:
        handle = (unit.id, self.pool.submitted)
        self.pool.handles.append(handle)
        self.pool.submitted += 1
        self.pool.queue.append((handle, unit, self))
        self.pool.cares.append((unit.id, handling))
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
        self.cares: list[tuple[str, Handling | None]] = []
        self.handles: list[tuple[str, int]] = []

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
    precautions = blaming(lambda unit: "bad sample")
    dispatch(feed(units(4)), pool, lambda unit, report: done.append(unit.id), lambda: False, precautions)
    assert sorted(done) == ["u0", "u1", "u2", "u3"]
    cares = [handling for unit, handling in pool.cares if unit == "u1"]
    assert cares[:3] == [None, Handling(alone=True), Handling(alone=True, first=("bad sample",))]
    (verdict,) = cares[3].out
    assert (verdict.sample, verdict.error_type) == ("bad sample", "ReplicaDied")
    assert "(host/0, host/1)" in verdict.error
    assert not cares[3].alone, "what ended its processes is known"
    after = [(unit, handling) for unit, handling in pool.cares if unit in ("u2", "u3")][-2:]
    assert after == [("u2", Handling((verdict,))), ("u3", Handling((verdict,)))], "out for the whole run"


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
    dispatch(feed(units(4)), pool, lambda unit, report: None, lambda: False, blaming(lambda unit: "bad sample"))
    assert {unit for unit, handling in pool.cares if handling is not None and handling.alone} == {"u1"}


def test_a_unit_full_of_killers_stops_the_run_in_the_end():
    culprits = (f"s{i}" for i in range(1000) for _ in range(2))
    pool = FakePool(["a"], {"u1": [ReplicaDiedError("segfault")] * 1000})
    precautions = blaming(lambda unit: next(culprits), [[f"s{i}" for i in range(1000)]])
    with pytest.raises(ReplicaError, match="segfault"):
        dispatch(feed(units(3)), pool, lambda unit, report: None, lambda: False, precautions)
    assert max(len(handling.out) for _, handling in pool.cares if handling) == MOST_QUARANTINED


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
    assert {unit for unit, handling in pool.cares if handling is not None} == {"u0"}


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
    dispatch(
        feed(units(8)),
        pool,
        lambda unit, report: done.append(unit.id),
        lambda: False,
        timing=Timing(clock=lambda: pool.now),
    )
    assert sorted(done) == sorted(f"u{i}" for i in range(8))
    assert pool.submitted == 8 + 2, "the two units of the stuck replica, once more each"


def test_replicas_that_can_help_no_more_are_released():
    pool = SlowPool(["a", "b", "c", "d"])
    dispatch(feed(units(9)), pool, lambda unit, report: None, lambda: False, timing=Timing(clock=lambda: pool.now))
    assert pool.released
    assert "a" not in pool.released


def test_policy_retries_within_its_bounds_only():
    assert after_replica_death(0, False, 0, 1) is Decision.RETRY
    assert after_replica_death(1, False, 0, 1) is Decision.CAREFUL
    assert after_replica_death(2, False, 0, 2) is Decision.CAREFUL
    assert after_replica_death(3, True, 0, 3) is Decision.QUARANTINE
    assert after_replica_death(9, True, MOST_QUARANTINED, 2) is Decision.STOP
    assert after_replica_death(1, False, 0, MOST_IDLE_DEATHS) is Decision.STOP
    assert after_unit_error(MOST_ATTEMPTS - 1) is Decision.RETRY
    assert after_unit_error(MOST_ATTEMPTS) is Decision.STOP
    assert is_straggler(61, [20, 20, 20])
    assert not is_straggler(59, [20, 20, 20])
    assert not is_straggler(15, [1, 1])
    assert not is_straggler(1000, [])


class OverlappingPool(FakePool):
    """One process whose units overlap: the killer ends it as soon as it is among the first three.

    A unit taken with handling overlaps no other. The killer's own sample does it again when it is taken with handling.
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
        begun = [first] if with_care is not None and with_care.alone else [unit.id for _, unit, _ in self.queue[:3]]
        if self.killer in begun and not (with_care and with_care.out):
            self.deaths += 1
            self.queue.clear()
            raise ReplicaDiedError("segfault")
        return super().result(handle)


@pytest.mark.parametrize("killer", ["u0", "u1", "u2", "u5"])
def test_where_units_overlap_the_sample_that_kills_is_found_too_and_everything_is_done(killer):
    pool = OverlappingPool(killer)
    done: list[str] = []

    # Shards of their own: nothing else is held back for the sample.
    own = [replace(unit, shard=i) for i, unit in enumerate(units(6))]
    precautions = blaming(
        lambda unit: "bad sample" if unit.id == killer else None,
        [["bad sample" if unit.id == killer else unit.id] for unit in own],
    )
    dispatch(feed(own), pool, lambda unit, report: done.append(unit.id), lambda: False, precautions)
    assert sorted(done) == [f"u{i}" for i in range(6)]
    assert pool.most_in_flight == 3
    out = {
        unit: [verdict.sample for verdict in handling.out]
        for unit, handling in pool.cares
        if handling is not None and handling.out
    }
    assert out == {killer: ["bad sample"]}
    assert pool.deaths <= 3 + 2, "once in its unit, twice by itself, and once per unit that was before it"


class PoisonPool(FakePool):
    """Replicas of processes of their own, at once, which a sample of every unit ends at a random moment.

    Outside kills end others: each look at the pool, with a share.
    """

    def __init__(self, n: int, seed: int, poison: str | None, units_in_flight: int = 2, outside: float = 0.0) -> None:
        super().__init__([f"r{i}" for i in range(n)])
        self.draws = random.Random(seed)
        self.poison, self.outside = poison, outside
        self.units_in_flight = units_in_flight
        self.left: dict = {}
        self.notes: dict[str, Note] = {}
        self.processes = {name: f"host/{name}" for name in (r.name for r in self.members)}
        self.deaths = self.outside_deaths = 0
        self.moved = False

    def running(self, replica):
        return next((entry for entry in self.queue if entry[2] is replica), None)

    def order(self, unit, handling):
        out = {verdict.sample for verdict in handling.out} if handling else set()
        ids = [id_ for id_ in SAMPLES if id_ not in out]
        if handling and handling.alone:
            return [*handling.first, *(i for i in ids if i not in handling.first and i not in handling.last)] + (
                [None] if handling.last - out else []
            )
        return [tuple(ids)]

    def wait(self, handles, timeout_s):
        busy = [r for r in self.members if self.running(r)]
        replica = self.draws.choice(busy)
        handle, unit, _ = self.running(replica)
        handling = [
            handling for entry, handling in zip(self.submissions, self.sent_handlings, strict=True) if entry == handle
        ][-1]
        steps = self.left.setdefault(handle, self.order(unit, handling))
        if self.outside and self.draws.random() < self.outside:
            self.outside_deaths += 1
            return self.die(replica, handle)
        if not steps:
            self.notes.pop(unit.id, None)
            return [handle]
        tried = steps.pop(0)
        if handling and handling.alone:
            self.notes[unit.id] = Note(tried, self.processes[replica.name])
        if self.poison is not None and (tried == self.poison or (isinstance(tried, tuple) and self.poison in tried)):
            return self.die(replica, handle)
        return []

    def die(self, replica, handle):
        self.deaths += 1
        self.dead = handle
        return [handle]

    dead = None

    def result(self, handle):
        entry = next(e for e in self.queue if e[0] == handle)
        if handle == self.dead:
            self.dead = None
            self.queue = [e for e in self.queue if e[2] is not entry[2]]
            raise ReplicaDiedError("killed")
        return super().result(handle)

    def replace(self, replica):
        super().replace(replica)
        self.processes[replica.name] += "+"

    @property
    def submissions(self):
        return self.handles

    @property
    def sent_handlings(self):
        return [handling for _, handling in self.cares]


SAMPLES = [f"s{i}" for i in range(6)]
POISON = "s4"


def run_poisoned(pool: PoisonPool, quarantine: Quarantine, count: int = 25):
    done: list[str] = []
    precautions = Precautions([SAMPLES], quarantine, lambda unit: pool.notes.get(unit.id))
    dispatch(feed(units(count)), pool, lambda unit, report: done.append(unit.id), lambda: False, precautions)
    assert sorted(done) == sorted(f"u{i}" for i in range(count))


@pytest.mark.parametrize("n", [1, 4, 16])
@pytest.mark.parametrize("units_in_flight", [2, 3])
def test_a_sample_that_ends_processes_in_every_unit_costs_four_of_them_whatever_the_replicas(n, units_in_flight):
    for seed in range(20):
        pool, quarantine = PoisonPool(n, seed, POISON, units_in_flight), Quarantine()
        run_poisoned(pool, quarantine)
        assert [verdict.sample for verdict in quarantine.verdicts(SAMPLES)] == [POISON]
        assert pool.deaths <= 4
        last = dict(pool.cares)
        assert all([verdict.sample for verdict in handling.out] == [POISON] for handling in last.values())


def test_a_sample_that_is_out_is_not_tried_when_the_run_goes_on():
    pool, quarantine = PoisonPool(4, 0, POISON), Quarantine()
    run_poisoned(pool, quarantine)
    again = PoisonPool(16, 1, POISON)
    run_poisoned(again, quarantine)
    assert again.deaths == 0


@pytest.mark.parametrize("n", [1, 4, 16])
def test_replicas_that_are_killed_from_outside_put_no_sample_out(n):
    killed = 0
    for seed in range(20):
        pool, quarantine = PoisonPool(n, seed, None, outside=0.02), Quarantine()
        run_poisoned(pool, quarantine)
        killed += pool.outside_deaths
        assert not quarantine.verdicts(SAMPLES)
        assert not any(handling.out for _, handling in pool.cares if handling)
    assert killed > 20


def run_with_second_looks(quarantine: Quarantine, pool_of) -> int:
    """As the driver does it; how often it looked again."""
    run_poisoned(pool_of(0), quarantine)
    looks = 0
    while quarantine.doubted:
        quarantine.look_again()
        looks += 1
        run_poisoned(pool_of(looks), quarantine, 3)
    return looks


def killed_pool(n: int, seed: int, look: int) -> PoisonPool:
    return PoisonPool(n, seed + 1000 * look, None, outside=0.1)


@pytest.mark.parametrize(("n", "wrong"), [(1, 15), (4, 2)])
def test_a_killer_that_hits_one_sample_twice_is_found_by_its_other_deaths(n, wrong):
    """Every tenth look kills: one run in three of one replica takes a sample for deadly."""
    first = 0
    for seed in range(60):
        quarantine = Quarantine()
        looks = run_with_second_looks(
            quarantine, lambda look, s=seed: PoisonPool(n, s + 1000 * look, None, outside=0.1)
        )
        first += looks > 0
        assert not quarantine.verdicts(SAMPLES)
    assert first >= wrong


@pytest.mark.parametrize("n", [1, 4])
def test_a_deadly_sample_is_out_although_somebody_kills_too(n):
    stopped = 0
    for seed in range(30):
        quarantine = Quarantine()
        try:
            run_with_second_looks(quarantine, lambda look, s=seed: PoisonPool(n, s + 1000 * look, POISON, outside=0.03))
        except ReplicaError:
            stopped += 1
            continue
        assert [verdict.sample for verdict in quarantine.verdicts(SAMPLES)] == [POISON]
    assert stopped <= 5


def test_deaths_that_a_deadly_sample_explains_are_nobody_elses():
    for seed in range(20):
        quarantine = Quarantine()
        assert run_with_second_looks(quarantine, lambda look, s=seed: PoisonPool(4, s, POISON, 3)) == 0


class HangingPool(FakePool):
    """One process per replica; a sample of every unit never comes to an end, and some processes are stopped."""

    def __init__(self, n, hangs=None, stopped=(), well=()):
        super().__init__([f"r{i}" for i in range(n)])
        self.well = well
        self.now, self.hangs, self.stopped = 0.0, hangs, set(stopped)
        self.notes: dict[str, Note] = {}

    def wait(self, handles, timeout_s):
        self.now += 1
        done = []
        cares = dict(zip(self.handles, [handling for _, handling in self.cares], strict=True))
        alone = [unit.id for handle, unit, _ in self.queue if cares[handle] is not None and cares[handle].alone]
        assert len(alone) == len(set(alone)), "two copies would take each other's notes"
        for replica in self.members:
            entry = next((e for e in self.queue if e[2] is replica), None)
            if entry is None or replica.name in self.stopped:
                continue
            handle, unit, _ = entry
            handling = cares[handle]
            out = {verdict.sample for verdict in handling.out} if handling else set()
            if self.hangs in SAMPLES and self.hangs not in out and unit.id not in self.well:
                if handling and handling.alone:
                    self.notes[unit.id] = Note(self.hangs, f"host/{replica.name}/{len(self.replaced)}")
                continue
            done.append(handle)
        return [handle for handle in handles if handle in done]

    def replace(self, replica):
        super().replace(replica)
        self.stopped.discard(replica.name)
        self.queue = [entry for entry in self.queue if entry[2] is not replica]


def run_hanging(pool, hang_after_s=10.0, count=10):
    done: list[str] = []
    precautions = Precautions([SAMPLES], Quarantine(), lambda unit: pool.notes.get(unit.id))
    dispatch(
        feed(units(count)), pool, lambda unit, report: done.append(unit.id), lambda: pool.now > 2000, precautions,
        Timing(hang_after_s, lambda: pool.now),
    )  # fmt: skip
    assert sorted(done) == sorted(f"u{i}" for i in range(count))
    return precautions.quarantine


@pytest.mark.parametrize("n", [1, 4, 16])
def test_a_sample_that_hangs_in_every_unit_is_out_after_two_tries_by_itself(n):
    pool = HangingPool(n, hangs=POISON)
    (verdict,) = run_hanging(pool).verdicts(SAMPLES)
    assert (verdict.sample, verdict.error_type) == (POISON, "TimeLimit")
    assert "no end within 10 s" in verdict.error
    assert len(pool.replaced) <= 4
    assert pool.now < 60 + 2 * 20 + 60 + 20


@pytest.mark.parametrize("n", [1, 4])
def test_a_stopped_replica_is_ended_and_replaced_also_when_it_is_the_only_one(n):
    pool = HangingPool(n, stopped=["r0"])
    assert run_hanging(pool).verdicts(SAMPLES) == ()
    assert pool.replaced == ["r0"]
    assert pool.submitted <= 10 + 2 + 2, "units that were lost or copied are sent once more"


def test_a_unit_taken_sample_by_sample_is_never_copied_however_long_it_takes():
    pool, quarantine = HangingPool(4, hangs=POISON, well=["u0"]), Quarantine()
    quarantine.mark("u1")  # by an earlier session; u0 comes through the shard before
    precautions = Precautions([SAMPLES], quarantine, lambda unit: pool.notes.get(unit.id))
    dispatch(
        feed(units(2)), pool, lambda unit, report: None, lambda: pool.now > 2000, precautions,
        Timing(100.0, lambda: pool.now),
    )  # fmt: skip
    assert len(quarantine.verdicts(SAMPLES)) == 1


def test_without_a_limit_nothing_is_ended():
    pool = HangingPool(1, hangs=POISON)
    with pytest.raises(Interrupted):
        run_hanging(pool, hang_after_s=0.0)
    assert pool.replaced == []


def test_a_driver_that_was_stopped_itself_takes_what_is_done_and_ends_nothing():
    class Resumed(HangingPool):
        def wait(self, handles, timeout_s):
            self.now += 10_000
            return list(handles)

    pool = Resumed(4)
    dispatch(feed(units(10)), pool, lambda unit, report: None, lambda: False, None, Timing(10.0, lambda: pool.now))
    assert pool.replaced == []


def test_the_limit_follows_the_pace():
    pace = Pace(600.0)
    assert pace.limit_s(100) == 3600
    assert pace.limit_s(1) == 600
    pace.learn(50.0, 100)
    assert pace.limit_s(100) == 20 * 50
    assert pace.limit_s(1) == 600
    pace.learn(10.0, 100)
    assert pace.limit_s(1000) == 20 * 500
    assert Pace(0.0).limit_s(10) == float("inf")


def test_until_a_shard_has_come_through_no_more_than_two_replicas_try_it():
    class Watched(FakePool):
        at_once = 0

        def wait(self, handles, timeout_s):
            if not self.finished:
                self.at_once = max(self.at_once, len({entry[2].name for entry in self.queue}))
            return super().wait(handles, timeout_s)

        finished = 0

        def result(self, handle):
            self.finished += 1
            return super().result(handle)

    pool = Watched([f"r{i}" for i in range(16)])
    dispatch(feed(units(40)), pool, lambda unit, report: None, lambda: False, Precautions([SAMPLES]))
    assert pool.at_once == MOST_TRYING
    assert pool.most_in_flight == 32
