"""Schedules that decide while the run goes on: units come late, and resuming replays what is committed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from harness import load_records
from harness.core.errors import ScheduleError
from harness.planning.coverage import Coverage
from harness.planning.preparation import prepare
from harness.planning.units import make_plan
from harness.results.schema import UnitStatistics
from harness.results.status import read_status
from harness.results.store import RunStore
from harness.running.dispatch import dispatch
from harness.running.driver import run
from harness.running.feed import Feed
from harness.running.messages import UnitReport
from harness.running.schedule import InOrder
from tests.distributed.compare import assert_equal_records
from tests.distributed.feeding import feed, unit
from tests.distributed.scheduling import EveryOther, Stuck, Twice
from tests.distributed.test_dispatch import FakePool
from tests.distributed.test_resume import overrides_of, part_times, wait_for_parts
from tests.forked import Forked

STATISTICS = UnitStatistics(6, 0, 6, 60, 30, 0.5, 0.4, "r")


class Recorded:
    """A schedule that remembers its calls: `batches` come one after the other, each when the last is finished."""

    def __init__(self, *batches):
        self.batches, self.calls, self.open = [list(batch) for batch in batches], [], set()

    def next(self, n):
        if not self.batches or (self.open and not self.batches[0]):
            return []
        found, self.batches[0] = self.batches[0][:n], self.batches[0][n:]
        self.open |= {one.id for one in found}
        return found

    def finished(self, one, report):
        self.calls.append((one.id, report.statistics.n_records))
        self.open.discard(one.id)
        if not self.open and self.batches and not self.batches[0]:
            self.batches.pop(0)

    @property
    def is_exhausted(self):
        return not any(self.batches)

    @property
    def to_come(self):
        return None if len(self.batches) > 1 else [one for batch in self.batches for one in batch]


def units(names):
    return [unit(name) for name in names]


def test_units_that_come_while_others_run_are_done_and_no_replica_leaves_before_the_end():
    schedule = Recorded(units("ab"), units("cde"), units("f"))
    everyone = units("abcdef")
    pool, done = FakePool(["x", "y", "z"]), []
    dispatch(feed(everyone, schedule), pool, lambda one, report: done.append(one.id), lambda: False)
    assert done == list("abcdef")
    assert [name for name, _ in schedule.calls] == list("abcdef")
    released_before_the_end = [name for name in pool.released if len(done) < 5]
    assert not released_before_the_end


def test_a_schedule_that_waits_for_nothing_ends_with_one_line():
    schedule = Recorded(units("ab"), [], units("c"))
    schedule.finished = lambda one, report: None
    with pytest.raises(ScheduleError, match="waits for units to finish, but none is under way"):
        dispatch(feed(units("abc"), schedule), FakePool(["x"]), lambda one, report: None, lambda: False)


@pytest.mark.parametrize("given", ["aba", "aab", "abca"])
def test_a_unit_given_twice_is_refused_with_its_place(given):
    source = feed(units("abc"), InOrder(units(given)))
    with pytest.raises(ScheduleError, match=r"gave unit a \(t, seed 1, K \[0\], shard 0\) twice; expected each unit"):
        dispatch(source, FakePool(["x"]), lambda one, report: None, lambda: False)


def test_a_unit_of_another_run_is_refused():
    with pytest.raises(ScheduleError, match=r"gave unit z .* none of the run's"):
        dispatch(feed(units("ab"), InOrder(units("az"))), FakePool(["x"]), lambda one, report: None, lambda: False)


def test_what_is_committed_is_told_to_the_schedule_before_anything_is_computed():
    schedule = Recorded(units("ab"), units("cd"))
    pieces = {"a": (), "b": (), "c": tuple(units(["c1", "c2"])), "d": ()}
    source = Feed(
        schedule, lambda one: pieces.get(one.id), lambda one: UnitReport(one.id, replace(STATISTICS, n_records=7))
    )
    assert source.next_model() == "m"
    assert schedule.calls == [("a", 7), ("b", 7)]
    done = []
    dispatch(source.of("m"), FakePool(["x"]), lambda one, report: done.append(one.id), lambda: False)
    assert done == ["c1", "c2"]
    assert sorted(schedule.calls[2:]) == [("c", 2), ("d", 7)], "the pieces of a unit are told as their sum"
    assert source.next_model() is None


def test_models_come_one_after_the_other_and_again_where_a_schedule_says_so():
    everyone = [unit("a"), unit("b", model="n"), unit("c", model="n"), unit("d")]
    source = Feed(InOrder(everyone), lambda one: (one,), lambda one: None)
    seen = []
    while (model := source.next_model()) is not None:
        of_model = source.of(model)
        assert of_model.n_left == sum(one.model == model for one in everyone) - sum(m == model for m, _ in seen)
        dispatch(of_model, FakePool(["x"]), lambda one, report: seen.append((one.model, one.id)), lambda: False)
    assert seen == [("m", "a"), ("n", "b"), ("n", "c"), ("m", "d")]


def test_what_is_left_of_a_plan_keeps_together_what_shares_a_trunk(make_config):
    config = make_config(task={"limit": 20}, grid={"templates": ["english"], "k": [0, 2, 4], "seeds": [1, 2]})
    plan = make_plan(prepare(config), 8)
    work, pieces = plan.without(Coverage())
    assert work.units == plan.units and work.shards == plan.shards
    first, key = plan.units[0], dict(zip(plan.units[0].ks, plan.units[0].keys, strict=True))
    shard = plan.shards[first.shard]
    covered = Coverage()
    covered.add(key[2], "some", [s.id for s in shard.samples[:5]])
    covered.add(key[4], "some", [s.id for s in shard.samples[:5]])
    covered.add(plan.units[-1].keys[0], "other", [s.id for s in plan.shards[plan.units[-1].shard].samples])
    work, pieces = plan.without(covered)
    zero, others = pieces[first.id]
    assert (zero.ks, others.ks) == ((0,), (2, 4))
    assert work.shards[zero.shard] == shard
    assert work.shards[others.shard].samples == shard.samples[5:]
    last = pieces[plan.units[-1].id]
    assert [piece.ks for piece in last] == [(4,)]
    assert work.n_records(work.units) == plan.n_records(plan.units) - 2 * 5 - len(plan.shards[-1].samples)
    ids = [piece.id for piece in work.units]
    assert len(set(ids)) == len(ids) and not set(ids) & {first.id, plan.units[-1].id}


def test_a_unit_knows_its_cells_by_their_content_and_no_order(make_config):
    def plan(**grid):
        base = {"templates": ["english", "good_bad"], "k": [0, 2, 4], "seeds": [1, 2]}
        return make_plan(prepare(make_config(task={"limit": 10}, grid=base | grid)), 8)

    one, two = plan(), plan(templates=["good_bad", "english"], k=[4, 2, 0])
    assert {u.id for u in one.units} == {u.id for u in two.units}
    assert one.keys == two.keys
    wider = plan(seeds=[1, 2, 3], k=[0, 2, 4, 8])
    assert one.keys.items() <= wider.keys.items()
    shared = Counter(one.keys.values())
    assert sorted(shared.values()) == [1] * 8 + [2] * 2, "K=0 is one cell for all seeds"


SMALL = ["grid.k=[0,2]", "cluster.shard_size=12"]


@pytest.mark.slow
def test_a_schedule_that_adds_units_ends_with_the_full_grid(small_grid):
    whole = run(small_grid("name=whole", *SMALL))
    added = run(small_grid("name=added", *SMALL), schedule_of=EveryOther)
    assert part_times(added.run_dir).keys() == part_times(whole.run_dir).keys()
    assert_equal_records(whole.run_dir, added.run_dir)
    manifest = RunStore(added.run_dir).read_json("manifest.json")
    assert (manifest["n_units"], manifest["n_records"]) == (12, 36 * 2 * 3)
    status = read_status(added.run_dir)
    assert (status.units_done, status.units_total) == (12, 12)


def test_a_schedule_that_adds_units_goes_on_after_a_kill(small_grid):
    config = small_grid("name=hit", *SMALL, "cluster.shard_size=4")
    command = [sys.executable, "-m", "tests.distributed.scheduling", "run", "configs/demo.yaml"]
    process = Forked([*command, *overrides_of(config)], stderr=subprocess.PIPE, text=True)
    try:
        wait_for_parts(config.run_dir, 3, process)
        status = read_status(config.run_dir)
    finally:
        process.kill()
        process.communicate()
    assert status.units_total is None, "nobody knows it yet"
    killed = part_times(config.run_dir)
    assert 3 <= len(killed) < 36
    resumed = run(config, schedule_of=EveryOther)
    after = part_times(config.run_dir)
    assert {name: after[name] for name in killed} == killed, "a committed part was computed again"
    whole = run(small_grid("name=whole", *SMALL))
    assert_equal_records(whole.run_dir, resumed.run_dir)
    assert len(after) == 36
    assert len(load_records(config.run_dir)) == 36 * 2 * 2 * 2
    run(config, schedule_of=EveryOther)
    assert part_times(config.run_dir) == after
    assert RunStore(config.run_dir).read_json("manifest.json")["n_units"] == 36


@pytest.mark.parametrize(
    ("schedule_of", "words"),
    [(Twice, r"the schedule gave unit [0-9a-f]{32} \(.*\) twice"), (Stuck, "waits for units to finish, but none")],
)
def test_a_schedule_that_breaks_its_protocol_stops_the_run_and_keeps_what_is_done(small_grid, schedule_of, words):
    config = small_grid("grid.k=[0]", "grid.seeds=[1]", "cluster.shard_size=9")
    with pytest.raises(ScheduleError, match=words):
        run(config, schedule_of=schedule_of)
    assert RunStore(config.run_dir).read_json("manifest.json")["status"] == "failed"
    assert 1 <= len(part_times(config.run_dir)) < 8
    run(config)
    assert len(load_records(config.run_dir)) == 36 * 2
