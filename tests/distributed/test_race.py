"""A race in a run directory: the same decisions however, where and in how many sittings it is run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

from harness import run
from harness.analysis.compare import compare
from harness.cli import main
from harness.core.errors import ConfigError, RunDirError
from harness.reporting.report.build import write_report
from harness.results.store import RunStore
from harness.running.race import race
from tests.distributed.compare import assert_equal_records
from tests.distributed.test_resume import part_times
from tests.forked import Forked

RACE = [
    "task.limit=130",
    "grid.templates=[lecture_1,good_bad,english]",
    "grid.k=[0,2]",
    "grid.seeds=[1]",
    "race.epsilon=0.08",
    "race.confidence=0.6",
    "race.baseline=english K=0",
]


@pytest.fixture
def raced(small_grid):
    """A function from overrides to the configuration of a small race."""
    return lambda *overrides: small_grid(*RACE, *overrides)


def stored(run_dir):
    return RunStore(run_dir).read_json("race.json")["races"]


def decisions(run_dir):
    """Of the race that went on last, with what it claims."""
    last = stored(run_dir)[-1]
    found = {name: last["result"][name] for name in ("winner", "claim", "ending", "held_out", "scored")}
    return json.dumps([last["key"], last["rounds"], found], sort_keys=True)


def told(result):
    """All but the tokens: those of a unit with fewer K than its part are a share of the part's."""
    return replace(result, spent=replace(result.spent, tokens=0))


def command(config, verb="race"):
    overrides = [f"out={config.out}", f"name={config.name}", "model.dtype=float32", "model.device=cpu", *RACE]
    overrides.append(f"cluster.address={config.cluster.address}")
    overrides.append(f"cluster.shard_size={config.cluster.shard_size}")
    if config.cluster.replicas != "auto":
        overrides.append(f"cluster.replicas={config.cluster.replicas}")
    return [sys.executable, "-m", "harness", verb, "configs/demo.yaml", *overrides]


def test_a_race_is_the_same_in_one_sitting_with_other_shards_and_on_the_finished_grid(raced):
    one = race(raced("name=one"))
    entry = stored(one.run_dir)[-1]
    assert entry["result"]["winner"] == one.winner
    assert one.winner in one.claim and "60% confidence" in one.claim
    assert 0 < one.spent.records <= one.spent.records_of_grid == 104 * 6
    assert one.held_out is not None and one.held_out.winner.n == 26
    assert one.held_out.difference is not None and one.held_out.baseline is not None
    parts = part_times(one.run_dir)
    again = race(raced("name=one"))
    assert part_times(one.run_dir) == parts, "a race that is over computes nothing"
    assert told(again) == told(one)
    two = race(raced("name=two", "cluster.shard_size=7"))
    assert decisions(two.run_dir) == decisions(one.run_dir)
    whole = run(raced("name=whole", "cluster.shard_size=30"))
    parts = part_times(whole.run_dir)
    replayed = race(raced("name=whole"))
    assert part_times(whole.run_dir) == parts, "on a finished grid nothing is left to compute"
    assert decisions(whole.run_dir) == decisions(one.run_dir)
    assert (replayed.claim, replayed.spent.records) == (one.claim, one.spent.records)
    rest = run(raced("name=one"))
    assert_equal_records(whole.run_dir, rest.run_dir, tolerance=1e-5)


def test_readers_of_a_raced_run_are_told_what_is_not_comparable(raced, capsys, monkeypatch):
    done = race(raced())
    warnings = compare([done.run_dir]).warnings
    assert warnings[0].startswith("a race scored these strategies on ")
    assert "means over different samples are not comparable" in warnings[0] and done.claim in warnings[0]
    monkeypatch.setattr(sys, "argv", ["harness", "show", done.run_dir])
    with pytest.raises(SystemExit):
        main()
    assert "means over different samples are not comparable" in capsys.readouterr().out
    page = write_report([done.run_dir]).read_text(encoding="utf-8")
    assert "Strategies left in the race" in page and escape(done.claim, quote=False) in page
    assert f"Winner of the race</span> {escape(done.winner)}</h1>" in page
    run(raced())
    assert "Recommendation</span> Use " in write_report([done.run_dir]).read_text(encoding="utf-8")
    assert not [words for words in compare([done.run_dir]).warnings if "race" in words], "the grid is whole now"


def test_a_race_goes_on_with_a_smaller_epsilon_and_with_more_strategies(raced):
    coarse = race(raced("race.epsilon=0.3"))
    before = part_times(coarse.run_dir)
    fine = race(raced("race.epsilon=0.05"))
    after = part_times(fine.run_dir)
    assert before.items() <= after.items(), "what is committed is not computed again"
    assert fine.spent.records >= coarse.spent.records
    assert decisions(race(raced("race.epsilon=0.05", "name=fresh")).run_dir) == decisions(fine.run_dir)
    more = race(raced("race.epsilon=0.05", "grid.k=[0,2,4]"))
    assert after.items() <= part_times(more.run_dir).items()
    other = race(raced("race.epsilon=0.05", "grid.k=[0,2,4]", "name=fresh more"))
    assert decisions(more.run_dir) == decisions(other.run_dir)
    assert len(stored(more.run_dir)) == 3


def test_several_draws_race_one_by_one_or_averaged(raced):
    each = race(raced("grid.seeds=[1,2]"))
    labels = stored(each.run_dir)[-1]["strategies"]
    assert len(labels) == 9 and {"english K=0", "english K=2 seed=1", "english K=2 seed=2"} <= set(labels)
    averaged = race(raced("grid.seeds=[1,2]", "race.seeds=averaged"))
    assert len(stored(averaged.run_dir)[-1]["strategies"]) == 6
    assert averaged.spent.records_of_grid == each.spent.records_of_grid == 104 * 9


def test_other_decisions_than_those_stored_are_refused(raced):
    done = race(raced())
    path = Path(done.run_dir) / "race.json"
    document = json.loads(path.read_text())
    document["races"][0]["rounds"][1]["leader"] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(RunDirError, match=r"comes to another decision after 42 steps .* race.json away"):
        race(raced())
    path.write_text('{"races": [{}]}')
    with pytest.raises(RunDirError, match="is damaged; move it away"):
        race(raced())
    path.unlink()
    assert told(race(raced())) == told(done)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("race.baseline=english K=8", "race.baseline is 'english K=8', which is no strategy.*did you mean 'english K="),
        ("race.holdout=100", "race.holdout is 100, but the task has 130 samples; expected at most half"),
        ("race.metric=f1", "race.metric is 'f1', which this task has not"),
        ("race.epsilon=1", "race.epsilon is 1.0, expected a share from 0 to below 1"),
        ("race.confidence=95", "race.confidence is 95.0, expected at least 0.5 and below 1"),
        ("race.holdout=-1", "race.holdout is -1, expected 'auto' or a whole number"),
        ("race.seeds=all", "race.seeds is 'all'"),
    ],
)
def test_mistakes_end_before_a_model_is_loaded(raced, monkeypatch, override, words):
    monkeypatch.setattr("harness.running.driver.open_backend", None)
    with pytest.raises(ConfigError, match=words):
        race(raced(override, "cluster.shard_size=16"))


def kill_at_random(config, rng, times):
    """Race in processes that are killed at random moments, and finish; how many were killed."""
    killed = 0
    for _ in range(times):
        process = Forked(command(config), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun, parts = time.monotonic(), len(part_times(config.run_dir))
        wanted = parts + rng.randint(1, 6)
        while process.poll() is None and len(part_times(config.run_dir)) < wanted and time.monotonic() < begun + 120:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.05)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    return killed


def test_a_race_that_is_killed_comes_to_the_same_end(raced):
    quiet = race(raced("name=quiet"))
    config = raced("name=hit")
    assert kill_at_random(config, random.Random(1), 2) >= 1
    hit = race(config)
    assert decisions(hit.run_dir) == decisions(quiet.run_dir)
    assert hit.claim == quiet.claim


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "where"), [("9", []), ("5", ["cluster.address=local", "cluster.replicas=2"])], ids=["one", "two"]
)
def test_ten_kills_with_one_and_two_replicas_and_other_shards(raced, size, where):
    quiet = race(raced("name=quiet"))
    config = raced("name=hit", f"cluster.shard_size={size}", *where)
    killed = kill_at_random(config, random.Random(2), 10)
    print(f"killed {killed} times, {len(part_times(config.run_dir))} parts")
    assert killed >= 5
    hit = race(raced("name=hit", f"cluster.shard_size={size}"))
    assert decisions(hit.run_dir) == decisions(quiet.run_dir)
    assert hit.claim == quiet.claim


@pytest.mark.slow
def test_two_replicas_come_to_the_same_decisions(raced, shared_ray):
    one = race(raced("name=one"))
    two = race(raced("name=two", "cluster.address=local", "cluster.replicas=2", "cluster.shard_size=8"))
    assert decisions(two.run_dir) == decisions(one.run_dir)
