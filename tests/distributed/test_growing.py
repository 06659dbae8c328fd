"""A run grows: under the same name more of each axis computes what is missing, and nothing else."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness import load_records, run
from harness.config.loading import load_config
from harness.core.errors import RunDirError
from harness.planning.preparation import prepare
from harness.results.status import read_status
from harness.results.store import RunStore
from tests.conftest import DEMO, KO_TINY, REPO
from tests.distributed.compare import EXACT
from tests.distributed.test_resume import driver, overrides_of, part_times, wait_for_parts

AXES = ["template", "k", "seed", "sample_id"]
SMALL = ["task.limit=20", "grid.templates=[lecture_1,english]", "grid.k=[0,2]", "grid.seeds=[1]"]
LARGE = ["task.limit=30", "grid.templates=[good_bad,english,lecture_1]", "grid.k=[4,0,2]", "grid.seeds=[2,1]"]
BASE = ["model.dtype=float32", "model.device=cpu", "cluster.address=inline", "cluster.shard_size=8"]


def config_of(out, *overrides):
    return load_config("configs/demo.yaml", [f"out={out}", "name=run", *BASE, *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two templates, K 0 and 2, one seed, 20 samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPO)
        return run(config_of(tmp_path_factory.mktemp("small"), *SMALL)).run_dir


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    """Three templates, K 0, 2 and 4, two seeds, 30 samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPO)
        return run(config_of(tmp_path_factory.mktemp("large"), *LARGE)).run_dir


@pytest.fixture
def small_run(finished, tmp_path):
    """A copy of the finished run, to grow."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path


def stored(run_dir, parts=None):
    """Rows as they are stored: (template, K, seed, sample) of the parts; K=0 has no seed."""
    store = RunStore(str(run_dir))
    tables = [store.read_part(name, AXES).to_pylist() for name in (store.part_ids() if parts is None else parts)]
    return [(r["template"], r["k"], r["seed"] if r["k"] else None, r["sample_id"]) for rows in tables for r in rows]


def new_parts(run_dir, before):
    return [name.removesuffix(".parquet") for name in part_times(run_dir).keys() - before.keys()]


def assert_grew(before, run_dir, at_once, one_k_alone=()):
    """Old parts are as they were, each prompt of the large grid was computed once, and records are its records.

    Records that were computed beside other K (`one_k_alone`) have a trunk that is a part of a longer one in the
    large run: they agree up to rounding, all others to 1e-6.
    """
    after = part_times(run_dir)
    assert {name: after[name] for name in before} == before, "an old part was written again"
    rows = stored(run_dir)
    assert len(rows) == len(set(rows)), "a prompt was computed twice"
    assert set(rows) == set(stored(at_once))
    found, wanted = load_records(str(run_dir)), load_records(at_once)
    pd.testing.assert_frame_equal(found[EXACT], wanted[EXACT])
    logprobs = [np.stack(frame["label_logprobs"]) for frame in (found, wanted)]
    distance = np.abs(logprobs[0] - logprobs[1]).max(axis=1)
    alone = found["k"].isin(one_k_alone)
    assert distance[~alone].max() <= 1e-6
    assert distance[alone].max(initial=0) <= 1e-5


def test_a_finished_run_grows_along_every_axis(small_run, at_once, caplog):
    caplog.set_level(logging.INFO, "harness")
    before = part_times(small_run / "run")
    old = set(stored(small_run / "run"))
    assert len(old) == 2 * 2 * 20
    result = run(config_of(small_run, *LARGE))
    assert_grew(before, small_run / "run", at_once, one_k_alone=[2])
    new = new_parts(result.run_dir, before)
    missing = 3 * (1 + 2 * 2) * 30 - len(old)
    assert old.isdisjoint(stored(result.run_dir, new))
    log = Path(result.run_dir, "run.log").read_text()
    lines = [json.loads(line.split(" INFO ", 1)[1]) for line in log.splitlines() if ' INFO {"unit"' in line]
    assert sum(line["n_prompts"] for line in lines if line["unit"] in new) == missing
    assert "grows: templates good_bad; k 4; seeds 2; samples 20 -> 30" in log
    manifest = json.loads(Path(result.run_dir, "manifest.json").read_text())
    grown = {"templates": ["good_bad"], "k": [4], "seeds": [2], "samples": [20, 30]}
    assert [session.get("grown") for session in manifest["sessions"]] == [None, grown]
    assert (manifest["n_samples"], manifest["n_records"]) == (30, missing + len(old))
    assert manifest["config"]["grid"]["templates"] == ["good_bad", "english", "lecture_1"]
    assert list(result.cells["n_attempted"].unique()) == [30]
    assert len(result.cells) == 3 * 3 * 2
    status = read_status(result.run_dir)
    assert status.units_done == status.units_total == len(part_times(result.run_dir))
    assert (status.records_done, status.records_exact) == (status.records_total, True)


def test_a_run_that_has_grown_computes_nothing_again(small_run):
    grown = ["task.limit=20", "grid.templates=[lecture_1,english]", "grid.k=[0,2]", "grid.seeds=[1,2]"]
    first = run(config_of(small_run, *grown))
    before = part_times(first.run_dir)
    again = run(config_of(small_run, *grown))
    assert part_times(again.run_dir) == before
    pd.testing.assert_frame_equal(again.cells, first.cells)


def test_a_new_seed_computes_nothing_without_demonstrations(small_run):
    before = part_times(small_run / "run")
    result = run(config_of(small_run, *SMALL, "grid.seeds=[2,1]"))
    new = new_parts(result.run_dir, before)
    assert {k for _, k, _, _ in stored(result.run_dir, new)} == {2}
    zero = load_records(result.run_dir).query("k == 0")
    assert len(zero) == 2 * 2 * 20
    one, two = (zero[zero.seed == seed].reset_index(drop=True).drop(columns="seed") for seed in (1, 2))
    pd.testing.assert_frame_equal(one, two)


def test_a_growth_that_is_killed_goes_on(small_run, at_once):
    config = config_of(small_run, *LARGE)
    before = part_times(config.run_dir)
    process = driver(overrides_of(config))
    try:
        wait_for_parts(config.run_dir, len(before) + 2, process)
    finally:
        process.kill()
        process.communicate()
    killed = part_times(config.run_dir)
    assert len(before) + 2 <= len(killed)
    run(config)
    assert_grew(killed, small_run / "run", at_once, one_k_alone=[2])


def test_samples_that_a_killed_driver_added_do_not_confuse_the_next(small_run, at_once, monkeypatch):
    """It was killed between `samples.parquet` and the manifest."""

    class KilledError(BaseException):
        pass

    def killed(*_):
        raise KilledError

    before = part_times(small_run / "run")
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr("harness.running.driver.prompt_examples.prompt_examples", killed)
        run(config_of(small_run, *LARGE))
    store = RunStore(str(small_run / "run"))
    assert (store.read_table("samples.parquet").num_rows, store.read_json("manifest.json")["n_samples"]) == (30, 20)
    run(config_of(small_run, *LARGE))
    assert_grew(before, small_run / "run", at_once, one_k_alone=[2])


def test_data_model_and_templates_may_move(small_run, tmp_path):
    """Identity is content: what lies elsewhere keeps its name in the records."""
    before = part_times(small_run / "run")
    data, model, templates = tmp_path / "data", tmp_path / "model", tmp_path / "templates.yaml"
    shutil.copytree(DEMO, data)
    shutil.copytree(KO_TINY, model)
    shutil.copy(REPO / "tasks/templates/nsmc.yaml", templates)
    lines = (data / "ratings_test.txt").read_text(encoding="utf-8").splitlines()
    (data / "ratings_test.txt").write_text("\n".join([lines[0], *reversed(lines[1:])]), encoding="utf-8")
    moved = [f"task.data_dir={data}", f"model.path={model}", f"task.templates_file={templates}"]
    run(config_of(small_run, *SMALL, *moved))
    assert part_times(small_run / "run") == before, "nothing is missing"
    result = run(config_of(small_run, *SMALL, *moved, "grid.k=[0,2,4]"))
    assert {name: part_times(result.run_dir)[name] for name in before} == before
    assert {k for _, k, _, _ in stored(result.run_dir, new_parts(result.run_dir, before))} == {4}
    records = load_records(result.run_dir)
    assert set(records["model"]) == {"data_in/models/ko-tiny"}
    assert list(result.cells["model"].unique()) == ["data_in/models/ko-tiny"]
    assert len(result.cells) == 6
    manifest = json.loads(Path(result.run_dir, "manifest.json").read_text())
    assert list(manifest["engines"]) == list(manifest["weights"]) == ["data_in/models/ko-tiny"]


def test_another_model_is_added_even_one_with_the_same_files(small_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(KO_TINY, copy)
    before = part_times(small_run / "run")
    for paths in ([copy, KO_TINY.relative_to(REPO)], [KO_TINY.relative_to(REPO), copy]):
        result = run(config_of(small_run, *SMALL, f"model.path=[{','.join(map(str, paths))}]"))
        assert len(part_times(result.run_dir)) == 2 * len(before)
        assert {name: part_times(result.run_dir)[name] for name in before} == before
    records = load_records(result.run_dir)
    first, second = (records[records.model == str(path)].reset_index(drop=True) for path in paths)
    pd.testing.assert_frame_equal(first.drop(columns="model"), second.drop(columns="model"))
    assert len(first) == 80


def left_out(what):
    return f"holds what this command leaves out: {what}; a run only grows"


def other_wording(folder):
    text = (REPO / "tasks/templates/nsmc.yaml").read_text(encoding="utf-8")
    (folder / "own.yaml").write_text(text.replace("감정:", "느낌:"), encoding="utf-8")
    return [f"task.templates_file={folder / 'own.yaml'}"]


def other_text(folder):
    shutil.copytree(DEMO, folder / "data")
    file = folder / "data" / "ratings_test.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([lines[0], *(line.replace("\t", "\t참 ", 1) for line in lines[1:])]), encoding="utf-8")
    return [f"task.data_dir={folder / 'data'}"]


def other_pool(folder):
    shutil.copytree(DEMO, folder / "data")
    file = folder / "data" / "ratings_train.txt"
    file.write_text("\n".join(file.read_text(encoding="utf-8").splitlines()[:-1]), encoding="utf-8")
    return [f"task.data_dir={folder / 'data'}"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["grid.templates=[english,good_bad]"], left_out("template 'lecture_1'")),
        (["grid.k=[2,4]", "grid.seeds=[5]"], left_out("K=0, seed 1")),
        (["task.limit=12"], "leaves out: 8 of 20 samples ('"),
        (["task.limit=12"], "a run only grows: raise task.limit or give the same data"),
        (["task.draw=lecture"], "of 20 samples ("),
        (["model.dtype=bfloat16"], "model.dtype was 'float32', now 'bfloat16'"),
        (["demos.policy=per_sample"], "demos.policy was 'fixed', now 'per_sample'"),
        (["demos.balanced=true"], "demos.balanced was False, now True"),
        (["scoring=generate"], "scoring was 'likelihood', now 'generate'"),
        (["engine.share_prefixes=false"], "engine.share_prefixes was True, now False"),
        (["task.options.clean_text=false"], "task.options.clean_text was True, now False"),
        (other_wording, "templates.lecture_1.query was '문장: {document}\\\\n감정:', now '문장: {document}\\\\n느낌:'"),
        (other_text, ".document was '"),
        (other_pool, "pool was '"),
    ],
)
def test_what_would_change_or_drop_records_is_refused_with_the_difference(finished, tmp_path, overrides, words):
    shutil.copytree(finished, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    changed = overrides(tmp_path) if callable(overrides) else overrides
    with pytest.raises(RunDirError) as caught:
        run(config_of(tmp_path, *SMALL, *changed))
    message = str(caught.value)
    assert words.replace("\\\\", "\\") in message.replace("\\\\", "\\") and "\n" not in message
    names = {"run.log", "run.lock"}
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert {p: b for p, b in after.items() if p.name not in names} == {
        p: b for p, b in before.items() if p.name not in names
    }


def test_records_of_another_version_do_not_grow(small_run):
    path = small_run / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["identity"]["records"] = 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(RunDirError, match=r"records was 1, now 2; set another name=\.\.\., or start anew"):
        run(config_of(small_run, *LARGE))


def test_a_part_of_other_cells_is_refused_with_its_name(small_run, at_once):
    stranger = sorted(part_times(at_once))[0]
    shutil.copy(Path(at_once, "parts", stranger), small_run / "run" / "parts" / stranger)
    with pytest.raises(RunDirError, match=rf"1 files in '.*run/parts' are of no unit of this run \({stranger}\); move"):
        run(config_of(small_run, *SMALL))


@pytest.mark.slow
def test_damage_to_an_old_part_is_mended_whatever_the_run_has_become(small_run, at_once):
    store = RunStore(str(small_run / "run"))
    part = small_run / "run" / "parts" / f"{sorted(store.part_ids())[0]}.parquet"
    part.write_bytes(part.read_bytes()[:-30])
    run(config_of(small_run, *LARGE))
    assert_grew({}, small_run / "run", at_once, one_k_alone=[2])


def test_the_lectures_draws_allow_more_k_and_no_more_samples(tmp_path):
    lecture = ["demos.policy=lecture", "task.limit=6", "grid.templates=[english]", "grid.k=[2]", "grid.seeds=[1]"]
    first = run(config_of(tmp_path, *lecture))
    before = part_times(first.run_dir)
    grown = run(config_of(tmp_path, *lecture, "grid.k=[0,1,2]"))
    assert {name: part_times(grown.run_dir)[name] for name in before} == before
    whole = run(config_of(tmp_path, *lecture, "grid.k=[0,1,2]", "name=whole"))
    found, wanted = load_records(grown.run_dir), load_records(whole.run_dir)
    pd.testing.assert_frame_equal(found[EXACT], wanted[EXACT])
    with pytest.raises(RunDirError, match=r"lecture draws demonstrations for all samples in turn.*it has 6, this com"):
        run(config_of(tmp_path, *lecture, "grid.k=[0,1,2]", "task.limit=8"))


def test_calibration_arms_are_added_and_counted_apart(small_run):
    result = run(config_of(small_run, *SMALL, "scoring.calibration=[domain]"))
    assert len(load_records(result.run_dir)) == 80
    n_parts = len(part_times(result.run_dir))
    result = run(config_of(small_run, *SMALL, "scoring.calibration=[domain,contextual]"))
    manifest = json.loads(Path(result.run_dir, "manifest.json").read_text())
    assert len(part_times(result.run_dir)) == n_parts + 2
    assert len(manifest["calibration_units"]) == 4
    assert len(load_records(result.run_dir)) == 80
    ids = [name for part in manifest["calibration_units"] for *_, name in stored(result.run_dir, [part])]
    assert sorted(set(ids)) == ["content-free:", "content-free:N/A", "content-free:[MASK]"]
    assert len(ids) == 2 * 2 * 3


@pytest.mark.slow
def test_a_run_of_a_realistic_size_grows_is_killed_moves_and_is_the_large_one(tmp_path):
    """Two templates, K 0 and 4, one seed, 200 samples, to three, K 0, 4 and 8, two seeds, 300 samples."""
    small = ["task.limit=200", "grid.templates=[lecture_1,english]", "grid.k=[0,4]", "grid.seeds=[1]"]
    large = ["task.limit=300", "grid.templates=[lecture_1,english,good_bad]", "grid.k=[0,4,8]", "grid.seeds=[1,2]"]
    sizes = ["cluster.shard_size=64"]
    at_once = run(config_of(tmp_path, *large, *sizes, "name=large")).run_dir
    run(config_of(tmp_path, *small, *sizes))
    before = part_times(tmp_path / "run")
    shutil.copytree(DEMO, tmp_path / "data")
    shutil.copytree(KO_TINY, tmp_path / "model")
    config = config_of(tmp_path, *large, *sizes)
    moved = [f"task.data_dir={tmp_path / 'data'}", f"model.path={tmp_path / 'model'}"]
    process = driver([*overrides_of(config), *moved])
    try:
        wait_for_parts(config.run_dir, len(before) + 3, process)
    finally:
        process.kill()
        process.communicate()
    killed = part_times(config.run_dir)
    run(config_of(tmp_path, *large, *sizes, *moved))
    assert_grew(killed, tmp_path / "run", at_once, one_k_alone=[4])
    assert set(load_records(config.run_dir)["model"]) == {"data_in/models/ko-tiny"}
    computed = stored(config.run_dir, new_parts(config.run_dir, before))
    kept = {s.id for s in prepare(config_of(tmp_path, *small)).data.samples}
    old = {(name, k, seed) for name in ("lecture_1", "english") for k, seed in ((0, None), (4, 1))}
    assert not any((*cell,) in old and sample in kept for *cell, sample in computed)
