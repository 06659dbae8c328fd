"""Devices that fail for good cost a process, never a sample; lack of memory costs the sample alone."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from harness import load_records, run
from harness.engine.local.scorer import Scorer
from harness.planning.preparation import prepare
from tests import forked
from tests.conftest import KO_TINY
from tests.distributed.breaking import LOADING, ONCE, SAMPLE
from tests.distributed.test_resume import overrides_of, part_times

CAUSE = "the device has failed for good: CUDA error: device-side assert triggered"


@pytest.fixture
def breaking_grid(small_grid, tmp_path):
    """A function from overrides to a small grid on the engine `breaking`, whose model's folder is of the test's own."""
    folder = tmp_path / "model"
    shutil.copytree(KO_TINY, folder)

    def make(*overrides):
        mine = ["model.engine=tests.distributed.breaking:ENGINE", f"model.path={folder}", "cluster.shard_size=9"]
        return small_grid(*mine, "grid.seeds=[1]", *overrides)

    make.folder = folder
    return make


def assert_as_quiet(make, result):
    """Every record is that of a run that nothing disturbed, which is done now."""
    records, quiet = load_records(result.run_dir), load_records(run(make("name=quiet")).run_dir)
    assert len(records) == 36 * 2 * 3
    assert records["error"].isna().all()
    assert records.equals(quiet)


def log_of(result):
    return Path(result.run_dir, "run.log").read_text()


@pytest.mark.parametrize("module", ["harness", "tests.distributed.overlapping"])
@pytest.mark.parametrize("when", [ONCE, LOADING])
def test_inline_the_run_ends_with_one_line_and_goes_on_when_it_is_run_again(breaking_grid, module, when):
    (breaking_grid.folder / when).touch()
    config = breaking_grid("name=hit")
    mine = [f"model.engine={config.model.engine}", f"model.path={config.model.path}"]
    command = [sys.executable, "-m", module, "run", "configs/demo.yaml", *overrides_of(config), *mine]
    done = forked.run(command)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"error: {CAUSE}; committed work is kept, run the same command again to go on"
    )
    before = part_times(config.run_dir)
    assert len(before) == {ONCE: 2, LOADING: 0}[when]
    assert json.loads(Path(config.run_dir, "manifest.json").read_text())["status"] == "failed"
    again = run(config)
    after = part_times(config.run_dir)
    assert {name: after[name] for name in before} == before
    assert_as_quiet(breaking_grid, again)


@pytest.mark.parametrize("where", [pytest.param("serial", marks=pytest.mark.slow), "overlapping"])
def test_on_ray_another_process_takes_the_place_of_one_with_a_broken_device(shared_ray, breaking_grid, request, where):
    if where == "overlapping":
        request.getfixturevalue("overlapping")
    (breaking_grid.folder / ONCE).touch()
    hit = run(breaking_grid("name=hit", "cluster.address=local", "cluster.replicas=2", "cluster.shard_size=3"))
    assert log_of(hit).count(" died with ") == 1
    assert f": {CAUSE}" in log_of(hit)
    assert_as_quiet(breaking_grid, hit)


@pytest.mark.slow
def test_a_device_that_breaks_while_loading_is_loaded_anew(shared_ray, breaking_grid):
    (breaking_grid.folder / LOADING).touch()
    hit = run(breaking_grid("name=hit", "cluster.address=local", "cluster.replicas=1"))
    told = [line for line in log_of(hit).splitlines() if "died while loading" in line]
    assert len(told) == 1
    assert CAUSE in told[0]
    assert_as_quiet(breaking_grid, hit)


def tail_of(config, sample):
    """Ids that prompts of `lecture_1` with a sample end with."""
    return prepare(config).models[0].tokenizer.whole(f"문장: {sample.fields['document']}\n감정:")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["serial", "overlapping"])
def test_a_sample_that_breaks_every_device_is_quarantined_alone(shared_ray, breaking_grid, request, where):
    if where == "overlapping":
        request.getfixturevalue("overlapping")
    config = breaking_grid("name=hit", "cluster.address=local", "cluster.replicas=1")
    sample = prepare(config).data.samples[10]
    quiet = load_records(run(breaking_grid("name=quiet")).run_dir)
    (breaking_grid.folder / SAMPLE).write_text(json.dumps(tail_of(config, sample)))
    hit = run(config)
    records = load_records(hit.run_dir)
    failed = records["error"].notna()
    assert set(records[failed]["sample_id"]) == {sample.id}
    assert set(records[failed]["template"]) == {"lecture_1", "good_bad"}, "out for the whole run"
    assert set(records[failed]["error_type"]) == {"ReplicaDied"}
    assert failed.sum() == 6
    assert records[~failed].equals(quiet[~failed])
    assert f"sample {sample.id} ends its process" in log_of(hit)
    assert log_of(hit).count(" died with ") == 3, "once in its unit, twice by itself"
    assert not list(Path(hit.run_dir).glob("trying-*"))


@pytest.mark.parametrize(
    "raised", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")]
)
def test_a_sample_that_lacks_memory_in_the_smallest_pack_fails_alone(small_grid, quiet_run, monkeypatch, raised):
    # Its tokens are not all in one pack with other samples'.
    sample = max(prepare(small_grid()).data.samples, key=lambda s: len(s.fields["document"]))
    # Without what every query begins with, which is computed before.
    own = set(tail_of(small_grid(), sample)[5:])
    whole = Scorer.forward_pack

    def forward_pack(self, pack, *rest):
        if own <= set(pack.tokens.tolist()):
            raise raised
        return whole(self, pack, *rest)

    monkeypatch.setattr(Scorer, "forward_pack", forward_pack)
    hit = run(small_grid("name=hit"))
    assert "out of memory: going on with 32 tokens per pack" in log_of(hit)
    records, quiet = load_records(hit.run_dir), load_records(quiet_run)
    failed = records["error"].notna()
    assert set(records[failed]["sample_id"]) == {sample.id}
    assert set(records[failed]["error_type"]) == {"OutOfMemoryError"}
    assert (records[~failed]["prediction"] == quiet[~failed]["prediction"]).all()
