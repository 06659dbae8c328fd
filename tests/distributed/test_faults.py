"""Faults that are caused for real, and what is left of the run afterwards."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness import load_records, run
from harness.config.loading import load_config
from tests import forked
from tests.distributed.poison import KILLER
from tests.distributed.test_generation import question_overrides


def questions(out, *overrides):
    values = ["grid.templates=[context_question]", "generation.max_new_tokens=2", *overrides]
    return question_overrides(out, *values)


@pytest.mark.slow
def test_a_sample_that_kills_its_process_is_quarantined_and_everything_else_is_done(shared_ray, tmp_path):
    overrides = ["task.name=tests.distributed.poison:TASK", "cluster.address=local", "cluster.replicas=2"]
    config = load_config("configs/korquad_demo.yaml", questions(tmp_path, *overrides, "cluster.shard_size=8"))
    result = run(config)
    records = load_records(result.run_dir)
    assert len(records) == 61 * 2
    failed = records[records["error"].notna()]
    assert set(failed["sample_id"]) == {KILLER}
    assert set(failed["error_type"]) == {"ReplicaDied"}
    assert len(failed) == 2
    assert (records[records["error"].isna()]["alive"] == 1).all()
    log = Path(result.run_dir, "run.log").read_text()
    assert f"sample {KILLER} ends its process" in log
    assert log.count(" died with ") == 3, "once in its unit, twice by itself"
    assert not list(Path(result.run_dir).glob("trying-*"))


def test_too_many_failures_end_the_run_with_status_3_after_everything_is_written(tmp_path):
    overrides = questions(tmp_path, "task.name=tests.distributed.poison:FAILING", "task.limit=10")
    done = forked.run([sys.executable, "-m", "harness", "run", "configs/korquad_demo.yaml", *overrides])
    assert done.returncode == 3
    assert "error: 100.0% of the records failed, more than run.max_failed_share=0.05" in done.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert (tmp_path / "run" / "cells.parquet").is_file()
    records = load_records(str(tmp_path / "run"))
    assert set(records["error_type"]) == {"ArithmeticError"}


def test_failures_within_the_budget_are_no_failure_of_the_run(tmp_path):
    limit = ["task.name=tests.distributed.poison:FAILING", "task.limit=4", "run.max_failed_share=1"]
    assert run(load_config("configs/korquad_demo.yaml", questions(tmp_path, *limit))).failed_share == 1


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_0_and_1_is_refused(tmp_path, share):
    from harness.core.errors import ConfigError

    with pytest.raises(ConfigError, match=r"run\.max_failed_share is"):
        load_config("configs/demo.yaml", [f"run.max_failed_share={share}"])
