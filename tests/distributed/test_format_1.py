"""Run directories of format 1 go on and grow."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from harness import load_records, run
from harness.config.loading import load_config
from harness.core.errors import RunDirError
from harness.core.hashing import content_hash
from harness.planning.format_1 import units_of_format_1
from harness.planning.preparation import prepare
from harness.planning.units import make_plan
from harness.results import layout
from harness.results.schema import SCHEMA
from harness.results.store import RunStore
from tests.conftest import REPO
from tests.distributed.test_resume import part_times

GRID = ["grid.templates=[lecture_1,english]", "grid.k=[0,2]", "grid.seeds=[1,2]", "task.draw=lecture"]
FACTS = {
    "grid": {"templates": ["lecture_1", "english"], "k": [0, 2], "seeds": [1, 2]},
    "models": ["data_in/models/ko-tiny"],
    "calibration": [],
}


def config_of(out, *overrides):
    base = [f"out={out}", "name=run", "model.dtype=float32", "cluster.address=inline", "cluster.shard_size=8"]
    return load_config(REPO / "configs" / "demo.yaml", [*base, *GRID, *overrides])


@pytest.mark.parametrize(
    ("overrides", "facts", "digest"),
    [
        (["scoring.calibration=[domain]"], {"calibration": ["domain"]}, "0f4dd0833c052462036638f59b2fd915"),
        (
            ["demos.policy=bank", "demos.bank_size=3", "grid.templates=[lecture_1]", "grid.k=[2,0]"],
            {"grid": {"templates": ["lecture_1"], "k": [2, 0], "seeds": [1, 2]}},
            "284dc3e091c8e8b45c631ebb9c8047bf",
        ),
    ],
)
def test_the_ids_of_early_units_are_formed_as_they_were(tmp_path, overrides, facts, digest):
    """The digests are of the names of parts that the last version of format 1 wrote for 20 embedded reviews."""
    for wider in ([], ["grid.k=[0,2,4]", "grid.seeds=[3,2,1]"]):
        prepared = prepare(config_of(tmp_path, "task.limit=20", *overrides, *wider))
        units = units_of_format_1(
            prepared, make_plan(prepared, 8), prepared.data.samples, FACTS | facts | {"n_samples": 20}
        )
        assert content_hash(sorted(units)) == digest


@pytest.fixture
def early(tmp_path):
    """The directory of a run of 12 samples, made over into one of format 1."""
    config = config_of(tmp_path, "task.limit=12")
    result = run(config)
    records = load_records(result.run_dir)[SCHEMA.names]
    store, prepared = RunStore(result.run_dir), prepare(config)
    plan = make_plan(prepared, 8)
    units = units_of_format_1(prepared, plan, prepared.data.samples, FACTS | {"n_samples": 12})
    assert len(units) == 2 * 2 * 2
    for name in store.part_ids():
        store.remove_part(name)
    cell_of = {key: cell for cell, key in plan.keys.items() if cell.k}
    ids = [s.id for s in prepared.data.samples]
    places = dict.fromkeys(cell_of.values(), 0)
    for name, (keys, n_rows) in units.items():
        cell = next(cell_of[key] for k, key in keys.items() if k)
        shard = ids[places[cell] : places[cell] + 8]
        places[cell] += 8
        mine = records["sample_id"].isin(shard) & (records["template"] == cell.template)
        rows = records[mine & (records["k"].isin(keys) & ((records["k"] == 0) | (records["seed"] == cell.seed)))]
        assert len(rows) == n_rows
        store.write_part(name, pa.Table.from_pandas(rows, SCHEMA, preserve_index=False), {})
    manifest = store.read_json("manifest.json")
    task = manifest["config"]["task"]
    del task["draw"], manifest["tracking_id"]
    manifest["identity"]["task"] |= {"data_dir": task["data_dir"], "limit": 12, "templates_file": None}
    store.write_json("manifest.json", manifest | {"format": 1})
    return result.run_dir, load_records(result.run_dir)


def test_a_directory_of_format_1_is_read_goes_on_and_grows(early, tmp_path):
    run_dir, records = early
    assert len(records) == 2 * 2 * 2 * 12
    before = part_times(run_dir)
    run(config_of(tmp_path, "task.limit=12"))
    assert part_times(run_dir) == before, "nothing is missing"
    pd.testing.assert_frame_equal(load_records(run_dir), records)
    assert json.loads(Path(run_dir, "manifest.json").read_text())["format"] == layout.FORMAT
    data = small(tmp_path, run_dir)
    for _ in range(2):
        run(config_of(tmp_path, "grid.templates=[english,lecture_1]", f"task.data_dir={data}"))
    after = part_times(run_dir)
    assert {name: after[name] for name in before} == before
    grown = load_records(run_dir)
    assert len(grown) == 2 * 2 * 2 * 15
    kept = grown[grown["sample_id"].isin(records["sample_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, records)


def test_the_refusal_says_how_an_early_draw_is_continued(early, tmp_path):
    with pytest.raises(RunDirError, match=r"of 12 samples .* drawn otherwise when it began: task\.draw=lecture takes"):
        run(config_of(tmp_path, "task.limit=12", "task.draw=nested"))


def small(tmp_path, run_dir):
    """The embedded reviews without most of those that the run does not have."""
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    source = REPO / "data_in" / "nsmc_demo"
    (folder / "ratings_train.txt").write_bytes((source / "ratings_train.txt").read_bytes())
    known = set(RunStore(run_dir).read_table("samples.parquet", ["sample_id"])["sample_id"].to_pylist())
    head, *lines = (source / "ratings_test.txt").read_text(encoding="utf-8").splitlines()
    others = [line for line in lines if line.split("\t")[0] not in known]
    kept = [line for line in lines if line.split("\t")[0] in known]
    (folder / "ratings_test.txt").write_text("\n".join([head, *others[: 15 - len(kept)], *kept]), encoding="utf-8")
    return folder
