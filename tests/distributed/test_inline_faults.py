"""Inline runs whose process comes to its end over a sample: the next starts find it, and do the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness import load_records, run
from harness.config.loading import load_config
from harness.results.quarantine import NAME
from tests import forked
from tests.distributed.poison import KILLER
from tests.distributed.test_faults import questions

KILLED = -signal.SIGKILL
GRID = ["cluster.shard_size=16"]


def start(out: Path, task: str, module: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    values = questions(out, f"task.name=tests.distributed.poison:{task}", *GRID, *overrides)
    command = [sys.executable, "-m", module, "run", "configs/korquad_demo.yaml", *values]
    return forked.run(command, timeout=300)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The records of a run without a fault."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).resolve().parents[2])
        out = tmp_path_factory.mktemp("quiet")
        values = questions(out, "task.name=tests.distributed.poison:HARMLESS", *GRID)
        return load_records(run(load_config("configs/korquad_demo.yaml", values)).run_dir)


def assert_quiet_but_for(sample: str, error_type: str, run_dir: Path, quiet) -> None:
    records = load_records(str(run_dir))
    failed = records["sample_id"] == sample
    assert failed.any()
    assert set(records[failed]["error_type"]) == {error_type}
    assert records[~failed]["error_type"].isna().all()
    columns = ["template", "k", "seed", "sample_id", "answer", "n_prompt_tokens", "finish_reason", "alive"]
    assert records[~failed][columns].equals(quiet[~failed][columns])


MODULES = ["harness", "tests.distributed.overlapping"]
ROUNDS = 10
SLOW_ROUNDS = [pytest.param(module, n, marks=pytest.mark.slow) for n in range(ROUNDS) for module in MODULES]


@pytest.mark.parametrize(("module", "number"), [("harness", ROUNDS), *SLOW_ROUNDS])
def test_a_sample_that_ends_the_process_is_left_out_from_the_fourth_start_on(tmp_path, quiet, module, number):
    starts = [start(tmp_path, "TASK", module) for _ in range(3)]
    assert [one.returncode for one in starts] == [KILLED] * 3, starts[-1].stderr
    assert KILLER in json.loads((tmp_path / "run" / NAME).read_text())["samples"]
    last = start(tmp_path, "TASK", module, "run.max_failed_share=1")
    assert last.returncode == 0, last.stderr
    assert_quiet_but_for(KILLER, "ReplicaDied", tmp_path / "run", quiet)
    assert not list((tmp_path / "run").glob("trying-*"))


@pytest.mark.parametrize(("module", "number"), SLOW_ROUNDS)
def test_a_sample_that_hangs_ends_the_run_with_one_line_and_is_left_out_after_two(tmp_path, quiet, module, number):
    starts = [start(tmp_path, "HANGING", module, "run.hang_after_s=2") for _ in range(3)]
    assert [one.returncode for one in starts] == [KILLED] * 3, starts[-1].stderr
    told = [[line for line in one.stderr.splitlines() if line.startswith("error: ")] for one in starts]
    assert [len(lines) for lines in told] == [1, 1, 1]
    assert "did not end within" in told[0][0] and f"sample {KILLER} by itself" in told[1][0]
    assert all("Traceback" not in one.stderr for one in starts)
    last = start(tmp_path, "HANGING", module, "run.hang_after_s=2", "run.max_failed_share=1")
    assert last.returncode == 0, last.stderr
    assert_quiet_but_for(KILLER, "TimeLimit", tmp_path / "run", quiet)
    assert not list((tmp_path / "run").glob("trying-*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_process_that_somebody_kills_again_and_again_puts_no_sample_out(tmp_path, quiet, number):
    values = questions(tmp_path, "task.name=tests.distributed.poison:HARMLESS", *GRID)
    command = [sys.executable, "-m", "harness", "run", "configs/korquad_demo.yaml", *values]
    killed = 0
    for seen in (0, 1, 2):
        process = forked.Forked(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and len(list(tmp_path.glob("run/parts/*.parquet"))) <= seen:
            time.sleep(0.01)
        time.sleep(0.05 * number)
        children = psutil.Process(process.pid).children() if process.poll() is None else []
        process.kill()
        killed += process.wait() == KILLED
        process.communicate()
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive, "the watching process outlives the run"
    assert killed >= 2
    done = start(tmp_path, "HARMLESS", "harness")
    assert done.returncode == 0, done.stderr
    records = load_records(str(tmp_path / "run"))
    assert records["error_type"].isna().all()
    assert records["answer"].equals(quiet["answer"])


@pytest.mark.slow
def test_a_stopped_terminal_is_no_hang(tmp_path, quiet):
    values = questions(tmp_path, "task.name=tests.distributed.poison:HARMLESS", *GRID, "run.hang_after_s=2")
    command = [sys.executable, "-m", "harness", "run", "configs/korquad_demo.yaml", *values]
    process = forked.Forked(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(tmp_path.glob("run/trying-*")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(20)
    os.killpg(process.pid, signal.SIGCONT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert load_records(str(tmp_path / "run"))["answer"].equals(quiet["answer"])
