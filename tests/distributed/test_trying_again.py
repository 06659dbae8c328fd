"""Failures that may pass are computed again when a run goes on; what is stored as a result is never touched."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from harness import load_records, run
from harness.engine.local.scorer import Scorer
from harness.planning.preparation import prepare
from harness.results.quarantine import PASSING
from harness.results.schema import Record, UnitStatistics, to_table
from harness.results.store import RunStore
from harness.running.driver import run as run_grid
from tests import forked
from tests.distributed.test_broken_device import tail_of
from tests.distributed.test_faults import questions
from tests.distributed.test_resume import part_times

PASSES = [
    MemoryError(),
    RuntimeError("could not create a primitive"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
]
STAYS = RuntimeError("poison")


@pytest.fixture
def failing(small_grid, monkeypatch):
    """A function that lets one sample's prompts of `lecture_1` raise; None lets nothing."""
    config = small_grid("cluster.shard_size=12")
    sample = prepare(config).data.samples[10]
    tail = tail_of(config, sample)
    whole = Scorer.compute

    def let(error):
        def compute(self, prepared):
            if error is not None and any(context[-len(tail) :] == tail for context in prepared.contexts):
                raise error
            return whole(self, prepared)

        monkeypatch.setattr(Scorer, "compute", compute)

    let.sample, let.config = sample.id, config
    return let


def failures(run_dir) -> dict[str, set[str]]:
    records = load_records(run_dir)
    failed = records[records["error_type"].notna()]
    return {kind: set(rows["sample_id"]) for kind, rows in failed.groupby("error_type")}


@pytest.mark.parametrize("error", PASSES, ids=lambda error: type(error).__name__)
def test_a_lack_of_memory_is_computed_again_and_nothing_else(failing, quiet_run, error):
    failing(error)
    first = run(failing.config)
    assert failures(first.run_dir) == {"OutOfMemoryError": {failing.sample}}
    before, good = part_times(first.run_dir), load_records(first.run_dir)
    failing(None)
    again = run(failing.config)
    after = part_times(again.run_dir)
    changed = {name for name in before if before[name] != after[name]}
    assert before.keys() == after.keys()
    assert len(changed) == 2, "the unit of either seed"
    records, quiet = load_records(again.run_dir), load_records(quiet_run)
    assert failures(again.run_dir) == {}
    assert again.failed_share == 0
    is_good = good["error_type"].isna()
    assert records[is_good].equals(good[is_good]), "records that were there, bit for bit"
    names = ["template", "k", "seed", "sample_id", "prediction", "n_prompt_tokens"]
    assert records[names].equals(quiet[names])
    run(failing.config)
    assert part_times(again.run_dir) == after


def test_what_fails_again_keeps_its_record_and_may_be_tried_once_more(failing):
    failing(MemoryError())
    run(failing.config)
    failing(STAYS)
    again = run(failing.config)
    assert failures(again.run_dir) == {"RuntimeError": {failing.sample}}
    failing(None)
    assert failures(run(failing.config).run_dir) == {"RuntimeError": {failing.sample}}, "no reason that passes"


def test_every_failure_is_computed_again_where_that_is_asked_for(failing):
    failing(STAYS)
    before = part_times(run(failing.config).run_dir)
    failing(None)
    assert part_times(run(failing.config).run_dir) == before
    again = run_grid(failing.config, retry_failed=True)
    assert failures(again.run_dir) == {}
    after = part_times(again.run_dir)
    assert len([name for name in before if before[name] != after[name]]) == 2, "the unit of either seed"
    assert again.cells["n_scored"].sum() == again.cells["n_attempted"].sum()


def test_the_flag_of_the_command_line_and_a_task_that_raises(tmp_path):
    overrides = questions(tmp_path, "task.name=tests.distributed.poison:FAILING", "task.limit=4")
    command = [sys.executable, "-m", "harness", "run", "configs/korquad_demo.yaml", *overrides]
    assert forked.run(command).returncode == 3
    before = part_times(tmp_path / "run")
    assert forked.run(command).returncode == 3
    assert part_times(tmp_path / "run") == before
    again = forked.run([*command, "--retry-failed"])
    assert again.returncode == 3
    assert "4 failed samples of 1 committed units are tried again" in again.stderr
    assert len(json.loads((tmp_path / "run" / "manifest.json").read_text())["sessions"]) == 3


def table(*rows: tuple[str, int, str | None]) -> pa.Table:
    made = [Record("m", "t", "w", k, 1, sample, 0, None if error else 1, error_type=error) for sample, k, error in rows]
    return to_table([dataclasses.replace(r, error=r.error_type and "text") for r in made])


def statistics(n: int, failed: int) -> dict:
    return asdict(UnitStatistics(n, failed, n, 10 * n, 5 * n, 1.0, 0.5, "host/1"))


@pytest.fixture
def store(tmp_path):
    store = RunStore(str(tmp_path / "run"))
    store.create()
    return store


def test_only_failed_records_give_way(store):
    before = table(("a", 0, None), ("a", 1, "MemoryError"), ("b", 0, "MemoryError"), ("c", 0, "MemoryError"))
    store.write_part("u", before, statistics(4, 3))
    again = table(("a", 0, "MemoryError"), ("a", 1, None), ("b", 0, "TimeLimit"))
    assert store.amend_part("u", again, statistics(3, 2))
    expected = table(("a", 0, None), ("a", 1, None), ("b", 0, "TimeLimit"), ("c", 0, "MemoryError"))
    assert store.read_part("u").equals(expected)
    assert store.read_statistics("u") == {
        **statistics(4, 2), "n_prompts": 7, "prompt_tokens": 70, "tokens_computed": 35, "seconds": 2.0,
        "scoring_seconds": 1.0,
    }  # fmt: skip
    assert not store.write_part("u", before, statistics(4, 3)), "a straggler's part is still second"


def test_a_second_copy_of_what_was_tried_again_changes_nothing(store, tmp_path):
    store.write_part("u", table(("a", 0, "MemoryError"), ("b", 0, None)), statistics(2, 1))
    assert store.amend_part("u", table(("a", 0, None)), statistics(1, 0))
    changed = (tmp_path / "run" / "parts" / "u.parquet").stat().st_mtime_ns
    assert not store.amend_part("u", table(("a", 0, "MemoryError")), statistics(1, 1))
    assert (tmp_path / "run" / "parts" / "u.parquet").stat().st_mtime_ns == changed


def test_a_write_that_is_cut_off_leaves_the_old_part(store, monkeypatch):
    before = table(("a", 0, "MemoryError"), ("b", 0, None))
    store.write_part("u", before, statistics(2, 1))
    monkeypatch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.amend_part("u", table(("a", 0, None)), statistics(1, 0))
    assert store.read_part("u").equals(before)


def test_types_that_pass_are_those_of_the_documentation():
    text = Path("docs/resuming.md").read_text()
    assert all(f"`{kind}`" in text for kind in PASSING)
