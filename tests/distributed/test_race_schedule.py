"""The schedule of a race by itself: what it gives, what it waits for, what it guesses. Without models and replicas."""

from __future__ import annotations

import numpy as np
import pytest

from harness.analysis.race_rules import Rules, round_ends
from harness.analysis.racing import Race, replay
from harness.config.schema import RaceConfig
from harness.core.errors import ConfigError
from harness.core.task import Sample
from harness.planning.coverage import Coverage
from harness.planning.preparation import prepare
from harness.planning.race_order import cut, race_order
from harness.planning.units import Pieces, make_plan
from harness.results.races import RaceLog
from harness.results.schema import Record, UnitStatistics, to_table
from harness.results.store import RunStore
from harness.running.messages import UnitReport
from harness.running.race_schedule import Field, RaceSchedule
from harness.running.race_scores import RaceScores, strategies_of

RULES = Rules(0.05, 0.6)


class Bench:
    """A race over made-up answers: `truth[label][sample]` is whether a strategy is right, None where it fails."""

    def __init__(self, config, folder, truth=None, shard_size=16):
        self.config, prepared = config, prepare(config)
        self.order = race_order(prepared.data.samples, config.race)
        self.cuts = cut(self.order, round_ends(len(self.order.steps)), shard_size)
        self.plan = make_plan(prepared, shard_size, self.cuts.samples)
        self.strategies = strategies_of(self.plan, config.race)
        self.store = RunStore(str(folder))
        self.store.create()
        self.race = Race(len(self.strategies), self.order.sizes, RULES)
        self.scores = RaceScores(self.order, self.plan, self.strategies, None)
        log = RaceLog(self.store, {"key": "k"})
        self.schedule = RaceSchedule(
            self.race, Field(self.plan, self.cuts, self.strategies, baseline=0), self.scores, self.store, log
        )
        rng = np.random.default_rng(5)
        levels = np.linspace(0.5, 0.9, len(self.strategies))
        ids = [sample.id for sample in (*self.order.samples, *self.order.holdout)]
        self.truth = truth or {
            s.label: dict(zip(ids, (rng.random(len(ids)) < level).tolist(), strict=True))
            for s, level in zip(self.strategies, levels, strict=True)
        }
        self.label = {key: s.label for s in self.strategies for key in s.keys}

    def compute(self, unit):
        """Commit a unit's records and tell the schedule."""
        records = []
        for sample in self.plan.shards[unit.shard].samples:
            for k, key in zip(unit.ks, unit.keys, strict=True):
                right = self.truth[self.label[key]][sample.id]
                said = None if right is None else sample.gold if right else 1 - sample.gold
                error = "Error" if right is None else None
                records.append(
                    Record(unit.model, unit.task, unit.template, k, unit.seed, sample.id, sample.gold, said,
                           error_type=error, error=error)
                )  # fmt: skip
        self.store.write_part(unit.id, to_table(records), {}, dict(zip(unit.ks, unit.keys, strict=True)))
        taken = UnitStatistics(len(records), 0, len(records), 0, 10, 0.1, 0.1, "r")
        self.schedule.finished(unit, UnitReport(unit.id, taken))

    def run(self):
        given = []
        while not self.schedule.is_exhausted:
            units = self.schedule.next(1)
            assert units, "it waits for nothing"
            given += units
            for unit in units:
                self.compute(unit)
        return given


@pytest.fixture
def bench(make_config, tmp_path):
    def make(name="run", **sections):
        grid = {"templates": ["english", "good_bad"], "k": [0, 2, 4], "seeds": [1]}
        base = {"task": {"limit": 200}, "grid": grid, "race": {"holdout": 20}}
        return Bench(make_config(**{**base, **sections}), tmp_path / name)

    return make


def test_a_schedule_comes_to_the_decisions_of_the_race_itself(bench):
    one = bench()
    given = one.run()
    low, high = one.scores.bounds(len(one.order.steps))
    samples = [s.id for s in one.order.samples]
    values = np.array([[one.truth[s.label][name] for name in samples] for s in one.strategies], dtype=float)
    whole = replay(values, one.order.sizes, RULES)
    assert whole.rounds == one.race.rounds and whole.winner == one.race.winner
    assert one.race.scored.min() < one.race.scored.max(), "all raced to the end: the case has no teeth"
    known = ~np.isnan(low)
    assert (known.sum(axis=1) == one.race.scored).all(), "more was computed than decisions asked for"
    assert (low[known] == high[known]).all()
    pairs = [(key, unit.shard) for unit in given for key in unit.keys]
    assert len(set(pairs)) == len(pairs), "something was computed twice"
    tokens = sum(10 for unit in given if unit.shard not in one.cuts.holdout)
    assert one.schedule.tokens == tokens, "samples held out are no part of the race's cost"
    one.scores.read(one.store, one.store.part_ids())
    held = {one.strategies[0].label, one.strategies[one.race.winner].label}
    seen = {s.label for i, s in enumerate(one.strategies) if np.isfinite(one.scores.held_out(i)).all()}
    assert seen == held, "the winner and the baseline alone are scored on the samples held out"


def test_while_units_are_under_way_those_of_the_likely_next_round_come(bench):
    one = bench()
    first = one.schedule.next(1000)
    assert {unit.shard for unit in first} == set(one.cuts.rounds[0])
    guessed = one.schedule.next(1)
    assert {unit.shard for unit in guessed} <= set(one.cuts.rounds[1])
    more = one.schedule.next(1000)
    everything = [(key, unit.shard) for unit in (*first, *guessed, *more) for key in unit.keys]
    assert len(set(everything)) == len(everything)
    assert one.schedule.next(1) == [] and not one.schedule.is_exhausted and one.schedule.to_come is None
    for unit in (*guessed, *more):
        one.compute(unit)
    assert one.race.rounds == [], "what was guessed is read only when its round is complete"
    for unit in first:
        one.compute(unit)
    assert len(one.race.rounds) >= 2, "all that the second round needs was there"
    calm = bench("calm")
    calm.run()
    one.run()
    assert one.race.rounds == calm.race.rounds


def test_failed_samples_count_in_the_worst_case(bench):
    plain = bench()
    plain.run()
    best = plain.strategies[plain.race.winner].label
    truth = {label: dict(values) for label, values in plain.truth.items()}
    for place, name in enumerate(truth[best]):
        if place % 4 == 0:
            truth[best][name] = None
    one = bench("failing")
    one.truth = truth
    one.run()
    low, high = one.scores.bounds(len(one.order.steps))
    arm = [s.label for s in one.strategies].index(best)
    known = ~np.isnan(low[arm])
    assert (high[arm][known] > low[arm][known]).mean() > 0.15
    assert one.scores.n_failed(arm) > 0
    assert one.race.alive[arm], "what failed may have been right"


def test_a_unit_with_fewer_k_has_the_pieces_of_the_whole_that_it_asks_for(bench):
    one = bench()
    unit = one.plan.units[0]
    shard = one.plan.shards[unit.shard]
    covered = Coverage()
    covered.add(unit.keys[1], "some", [s.id for s in shard.samples[:5]])
    work, left = one.plan.without(covered)
    pieces = Pieces(one.plan, left, work.shards)
    narrow = unit.narrowed(unit.keys[1:], shard.hash)
    assert narrow.id != unit.id and narrow.ks == (2, 4) and unit.narrowed(unit.keys, shard.hash) is unit
    found = pieces(narrow)
    assert sorted((piece.ks, len(work.shards[piece.shard].samples)) for piece in found) == [((2,), 11), ((4,), 16)]
    assert pieces(unit.narrowed(unit.keys[:1], shard.hash))[0].ks == (0,)
    assert set(pieces(unit.narrowed(unit.keys[1:2], shard.hash))) < set(found)
    stranger = type(unit)("x", "m", "t", "t", 1, (0,), ("k",), 0)
    assert pieces(stranger) is None


def test_the_order_depends_on_no_other_sample_and_keeps_clusters_whole():
    samples = [Sample(f"s{i}", {"document": str(i)}, cluster=f"c{i // 3}" if i < 60 else "") for i in range(100)]
    order = race_order(samples, RaceConfig(holdout=10))
    assert 10 <= len(order.holdout) <= 12
    assert sum(len(step) == 3 for step in order.steps) + sum(s.cluster != "" for s in order.holdout) / 3 == 20
    assert sorted(s.id for s in (*order.samples, *order.holdout)) == sorted(s.id for s in samples)
    again = race_order(samples[::-1], RaceConfig(holdout=10))
    assert again == order and again.hash == order.hash
    fewer = race_order(samples[:90], RaceConfig(holdout=10))
    kept = {s.id for s in (*fewer.holdout, *fewer.samples)}
    assert [s.id for s in (*order.holdout, *order.samples) if s.id in kept] == [
        s.id for s in (*fewer.holdout, *fewer.samples)
    ]
    other = race_order(samples, RaceConfig(holdout=10, seed=2))
    assert other.hash != order.hash
    auto = race_order(samples, RaceConfig())
    assert 20 <= len(auto.holdout) <= 22
    pieces = cut(order, round_ends(len(order.steps)), 7)
    assert max(map(len, pieces.samples)) <= 7
    assert [s for place in pieces.rounds for i in place for s in pieces.samples[i]] == order.samples
    assert [s for i in pieces.holdout for s in pieces.samples[i]] == list(order.holdout)


def test_one_strategy_is_no_race(bench):
    with pytest.raises(ConfigError, match="a race needs two strategies or more"):
        bench(grid={"templates": ["english"], "k": [0], "seeds": [1]})
