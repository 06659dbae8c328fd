"""Records do not depend on how, where and in how many sittings they were computed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from harness import load_records, run
from harness.core.errors import RunDirError
from harness.engine.local.engine import LoadedModel
from harness.results.store import RunStore
from tests.distributed.compare import assert_equal_records
from tests.forked import Forked


def part_times(run_dir: str | Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in Path(run_dir).glob("parts/*.parquet")}


@pytest.mark.parametrize(
    ("policy", "where"),
    [
        ("fixed", ["cluster.address=local", "cluster.replicas=2"]),
        ("lecture", ["cluster.address=inline"]),
        pytest.param("lecture", ["cluster.address=local", "cluster.replicas=2"], marks=pytest.mark.slow),
        ("bank", ["cluster.address=inline"]),
        ("per_sample", ["cluster.address=inline"]),
    ],
)
def test_records_are_equal_for_any_number_of_replicas_and_shard_size(shared_ray, small_grid, policy, where):
    common = [f"demos.policy={policy}", "demos.bank_size=5"]
    one = run(small_grid("name=one", *common))
    two = run(small_grid("name=two", "cluster.shard_size=7", *common, *where))
    frame = assert_equal_records(one.run_dir, two.run_dir)
    assert len(frame) == 36 * 2 * 3 * 2
    assert frame["error"].isna().all()


def test_killed_replica_loses_and_doubles_nothing(shared_ray, small_grid, quiet_run):
    killed: list[int] = []
    config = small_grid("name=hit", "cluster.address=local", "cluster.replicas=2", "cluster.shard_size=3")

    def kill_one() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not part_times(config.run_dir):
            time.sleep(0.02)
        for process in psutil.Process().children(recursive=True):
            if process.name().startswith("ray::ReplicaA") or "ReplicaActor" in " ".join(process.cmdline()[:1]):
                process.kill()
                killed.append(process.pid)
                return

    killer = threading.Thread(target=kill_one)
    killer.start()
    hit = run(config)
    killer.join()
    assert len(killed) == 1
    assert " died " in Path(hit.run_dir, "run.log").read_text()
    assert_equal_records(quiet_run, hit.run_dir)


def driver(config_overrides: list[str], config: str = "configs/demo.yaml") -> Forked:
    return Forked(
        [sys.executable, "-m", "harness", "run", config, *config_overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def overrides_of(config) -> list[str]:
    """The overrides that lead from the demo to a configuration of `small_grid`."""
    flat = {
        "out": config.out,
        "name": config.name,
        "model.dtype": config.model.dtype,
        "model.device": config.model.device,
        "task.limit": config.task.limit,
        "grid.templates": config.grid.templates,
        "grid.k": config.grid.k,
        "grid.seeds": config.grid.seeds,
        "cluster.address": config.cluster.address,
        "cluster.shard_size": config.cluster.shard_size,
        "cluster.replicas": config.cluster.replicas,
    }
    return [f"{key}={json.dumps(value) if isinstance(value, list) else value}" for key, value in flat.items()]


def wait_for_parts(run_dir: str, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 180
    while len(part_times(run_dir)) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


@pytest.mark.parametrize("address", [pytest.param("inline", marks=pytest.mark.slow), "local"])
def test_killed_driver_resumes_where_it_was(small_grid, quiet_run, address):
    config = small_grid("name=hit", f"cluster.address={address}", "cluster.shard_size=3")
    process = driver(overrides_of(config))
    children = []
    try:
        wait_for_parts(config.run_dir, 4, process)
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.communicate()
    # Ray's own agents notice the end of their node by themselves, later; what holds a model must go.
    holders = [c for c in children if c.is_running() and not name_of(c).endswith("Agent")]
    _, alive = psutil.wait_procs(holders, timeout=30)
    assert not alive, "processes with models outlive their driver"
    before = part_times(config.run_dir)
    assert 4 <= len(before) < 48
    resumed = run(small_grid("name=hit"))
    after = part_times(config.run_dir)
    assert {name: after[name] for name in before} == before, "a committed part was computed again"
    assert_equal_records(quiet_run, resumed.run_dir)


@pytest.mark.parametrize(
    ("number", "status", "address"),
    [
        (signal.SIGINT, 130, "local"),
        pytest.param(signal.SIGTERM, 143, "local", marks=pytest.mark.slow),
        (signal.SIGTERM, 143, "inline"),
        (signal.SIGHUP, 129, "inline"),
        pytest.param(signal.SIGHUP, 129, "local", marks=pytest.mark.slow),
    ],
)
def test_signals_stop_the_run_keep_parts_and_print_how_to_go_on(small_grid, number, status, address):
    config = small_grid("name=hit", "task.limit=200", f"cluster.address={address}", "cluster.shard_size=3")
    process = driver(overrides_of(config))
    wait_for_parts(config.run_dir, 3, process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == status
    first, then = "stopping, keeping what is done", "committed work is kept. Go on with: harness run configs/demo.yaml"
    assert errors.count(first) == 1 and errors.index(first) < errors.index(then)
    assert "Traceback" not in errors
    assert len(part_times(config.run_dir)) >= 3
    assert not list(Path(config.run_dir).glob("parts/*.tmp"))
    assert json.loads(Path(config.run_dir, "manifest.json").read_text())["status"] == "interrupted"
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "Ray processes outlive their driver"


def test_damaged_parts_are_computed_again_and_said_in_the_log(small_grid, quiet_run):
    first = run(small_grid("cluster.shard_size=12"))
    parts = sorted(Path(first.run_dir, "parts").iterdir())
    truncated, flipped, foreign, kept = parts[:4]
    truncated.write_bytes(truncated.read_bytes()[:-40])
    data = bytearray(flipped.read_bytes())
    data[60:260] = bytes(200)
    flipped.write_bytes(data)
    foreign.write_bytes(kept.read_bytes())
    before = part_times(first.run_dir)
    again = run(small_grid())
    after = part_times(first.run_dir)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {truncated.name, flipped.name, foreign.name}
    log = Path(first.run_dir, "run.log").read_text()
    assert log.count("computing it again") == 3
    assert_equal_records(quiet_run, again.run_dir)


def test_a_second_driver_is_refused(small_grid):
    config = small_grid("task.limit=200", "cluster.shard_size=3")
    process = driver(overrides_of(config))
    try:
        wait_for_parts(config.run_dir, 1, process)
        with pytest.raises(RunDirError, match=f"in use by another driver \\(process {process.pid}\\)"):
            run(config)
    finally:
        process.kill()
        process.communicate()


def test_a_changed_configuration_is_refused_with_the_difference(small_grid):
    run(small_grid("grid.k=[0]", "grid.seeds=[1]"))
    with pytest.raises(RunDirError, match=r"demos\.balanced was False, now True"):
        run(small_grid("grid.k=[0]", "grid.seeds=[1]", "demos.balanced=true"))


def test_fresh_starts_beside_the_old_run_without_deleting_it(small_grid, tmp_path):
    old = run(small_grid("grid.k=[0]", "grid.seeds=[1]"))
    old_parts = set(part_times(old.run_dir))
    new = run(small_grid("grid.k=[0,2]", "grid.seeds=[1]"), fresh=True)
    aside = [p for p in tmp_path.iterdir() if p.name.startswith("run.")]
    assert len(aside) == 1
    assert set(part_times(aside[0])) == old_parts
    assert set(load_records(new.run_dir)["k"]) == {0, 2}


def test_settings_that_do_not_change_results_may_change_on_resume(small_grid):
    first = run(small_grid("cluster.shard_size=10"))
    before = part_times(first.run_dir)
    run(small_grid("cluster.shard_size=5", "engine.tokens_per_pack=500"))
    assert part_times(first.run_dir) == before


def test_zero_shot_is_scored_once_and_recorded_under_every_seed(small_grid):
    result = run(small_grid("grid.seeds=[1,2,3]"))
    records = load_records(result.run_dir)
    zero = records[records["k"] == 0].set_index(["template", "seed", "sample_id"])["label_logprobs"]
    for seed in (2, 3):
        assert [list(x) for x in zero.xs(seed, level="seed")] == [list(x) for x in zero.xs(1, level="seed")]
    store = RunStore(result.run_dir)
    scored = sum(store.read_statistics(unit)["n_prompts"] for unit in store.part_ids())
    assert scored == 36 * 2 * (1 + 2 * 3)


def test_one_bad_sample_is_recorded_alone(small_grid, quiet_run, monkeypatch):
    records = load_records(quiet_run)
    victim = records["sample_id"].iloc[7]
    from harness.planning.preparation import prepare

    prepared = prepare(small_grid())
    poison = next(s for s in prepared.data.samples if s.id == victim).fields["document"]
    poisoned = prepared.models[0].tokenizer.whole(f"문장: {poison}\n감정:")
    whole = LoadedModel.score

    def score(self, prompts, prepared=None):
        if any(prompt.ids[-len(poisoned) :] == poisoned for prompt in prompts):
            raise RuntimeError("poison")
        return whole(self, prompts, prepared)

    monkeypatch.setattr(LoadedModel, "score", score)
    hit = run(small_grid("name=hit"))
    found = load_records(hit.run_dir)
    failed = found[found["error"].notna()]
    assert set(failed["sample_id"]) == {victim}
    assert set(failed["template"]) == {"lecture_1"}
    assert len(failed) == 6
    assert failed["prediction"].isna().all()
    assert set(failed["error_type"]) == {"RuntimeError"}
    cells = hit.cells[hit.cells["template"] == "lecture_1"]
    assert (cells["n_attempted"] == 36).all()
    assert (cells["n_scored"] == 35).all()
    rest = records.merge(found[found["error"].isna()], on=["template", "k", "seed", "sample_id"])
    assert (rest["prediction_x"] == rest["prediction_y"]).all()


def test_manifest_tells_what_ran_and_no_environment(small_grid, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret-value-123")
    result = run(small_grid("grid.k=[0]"))
    text = Path(result.run_dir, "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["status"] == "complete"
    assert manifest["config"]["grid"]["k"] == [0]
    assert manifest["sessions"][0]["packages"]["torch"]
    assert "secret-value-123" not in text
    assert os.environ["WANDB_API_KEY"] == "secret-value-123"
