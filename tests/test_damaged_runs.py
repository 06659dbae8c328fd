"""Run directories that were cut off, edited or forged: one line that names the file, and the rest is shown."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import load_records
from harness.analysis.summary import summarise
from harness.core.errors import DataError, RunDirError
from harness.results import layout, parts
from harness.results.schema import SCHEMA, table_digest
from harness.results.store import RunStore
from tests.simulated_runs import answered_run, classified_run
from tests.told import call, refused

SHARES = {("plain", 0): 0.6, ("plain", 4): 0.7}
READERS = ("show", "status", "compare", "calibrate", "report", "export")


@pytest.fixture
def run_dir(tmp_path):
    return classified_run(tmp_path / "run", [f"리뷰 {i}" for i in range(12)], SHARES)


def edit(run_dir, change):
    path = Path(run_dir, "manifest.json")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def some_part(run_dir, pattern="*.parquet"):
    return min(Path(run_dir, "parts").glob(pattern))


def rewrite(path, change, **metadata):
    """Another table under the same footer, its digest made right unless it is given."""
    table = pq.read_table(path)
    kept = table.schema.metadata
    table = change(table)
    kept = {**kept, b"harness_digest": table_digest(table).encode()}
    kept |= {name.encode(): value for name, value in metadata.items()}
    pq.write_table(table.replace_schema_metadata(kept), path)


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        (lambda m: m["config"]["grid"].update(k=[-1]), "config.grid.k"),
        (lambda m: m["config"]["grid"].update(seeds=[2**70]), "config.grid.seeds"),
        (lambda m: m["config"]["model"].update(path=[]), "config.model.path"),
        (lambda m: m["config"].update(task="nsmc"), "config.task"),
        (lambda m: m.update(class_names=[1, 2]), "class_names"),
        (lambda m: m.update(n_samples=-1), "n_samples"),
        (lambda m: m.update(calibration_units={"a": 1}), "calibration_units"),
        (lambda m: m.update(metrics=["\ud800"]), "metrics"),
        (lambda m: m.update(shard_size=True), "shard_size"),
    ],
)
@pytest.mark.parametrize("verb", ["show", "compare", "calibrate", "report"])
def test_a_manifest_with_a_wrong_entry_is_refused_with_its_name(run_dir, change, entry, verb):
    edit(run_dir, change)
    refused(call(verb, run_dir), "manifest.json", entry, "expected")


@pytest.mark.parametrize("text", ["", "[1]", "null", "[" * 200_000, '{"format": 1}', "\ufeff{}", '{"n_samples": NaN}'])
@pytest.mark.parametrize("verb", READERS)
def test_a_manifest_that_is_none_is_refused(run_dir, text, verb):
    Path(run_dir, "manifest.json").write_text(text, encoding="utf-8")
    refused(call(verb, run_dir), "manifest.json' is damaged")


def test_a_status_needs_only_what_it_shows(run_dir):
    edit(run_dir, lambda m: (m.pop("identity"), m["config"].clear(), m.update(class_names=5)))
    assert call("status", run_dir).status == 0


@pytest.mark.parametrize("name", ["manifest.json", "prompts.json", "samples.parquet", "part"])
def test_what_a_newer_version_wrote_is_refused_and_stays(run_dir, name):
    store = RunStore(run_dir)
    if name == "part":
        path = some_part(run_dir)
        rewrite(path, lambda table: table, harness_format=str(layout.FORMAT + 1).encode())
    elif name == "samples.parquet":
        path = Path(run_dir, name)
        pq.write_table(pq.read_table(path).replace_schema_metadata({"harness_format": str(layout.FORMAT + 1)}), path)
    else:
        path = Path(run_dir, name)
        document = json.loads(path.read_text()) if path.exists() else {"prompts": []}
        path.write_text(json.dumps(document | {"format": layout.FORMAT + 1}))
    before = path.read_bytes()
    versions = f"has the format {layout.FORMAT + 1}, expected {layout.FORMAT}"
    if name == "prompts.json":
        with pytest.raises(RunDirError, match=rf"prompts\.json' {versions}: a newer version"):
            store.read_json(name)
    else:
        refused(call("compare", run_dir), versions, "newer version")
    assert path.read_bytes() == before


@pytest.mark.parametrize("said", ["two", None, 1.5, True, -1, [1]])
@pytest.mark.parametrize("name", ["manifest.json", "prompts.json", "quarantine.json", "group.json"])
def test_a_format_that_is_no_number_is_damage(run_dir, name, said):
    store = RunStore(run_dir)
    store.write_json(name, {"format": said, "samples": {}, "units": [], "tasks": [{"label": "a", "folder": "b"}]})
    with pytest.raises(RunDirError, match=rf"{name}' is damaged: format "):
        store.read_json(name)


def filled(table, name, value):
    """The table with one value in a whole column."""
    field = SCHEMA.field(name)
    return table.set_column(SCHEMA.names.index(name), field, pa.array([value] * len(table), field.type))


@pytest.mark.parametrize(
    ("change", "metadata", "words"),
    [
        (lambda t: filled(t, "prediction", 1), {"harness_digest": b"2:0"}, "does not hold what was written"),
        (lambda t: t.slice(0, 3), {}, "has 3 rows, but its unit wrote 12"),
        (lambda t: filled(t, "prediction", 5), {}, "names a class 5 of 2"),
        (lambda t: filled(t, "sample_id", None), {}, "'sample_id' has empty places"),
        (lambda t: filled(t, "label_logprobs", [0.5]), {}, "1 values a row, expected 2"),
    ],
)
def test_a_part_that_is_not_the_units_is_left_out_and_named(run_dir, change, metadata, words):
    whole = len(load_records(run_dir))
    part = some_part(run_dir, "*-[1-9]*-*.parquet")
    rewrite(part, change, **metadata)
    result = call("show", run_dir)
    assert result.status == 0 and words in result.err and part.stem in result.err
    assert len(load_records(run_dir)) == whole - 12


def test_parts_of_format_3_lack_the_column_of_reasoning_and_are_read_and_amended(run_dir):
    whole = load_records(run_dir)
    paths = sorted(Path(run_dir, "parts").glob("*.parquet"))
    for path in paths:
        rewrite(path, lambda table: table.drop_columns(["reasoning"]), harness_format=b"3")
    pd.testing.assert_frame_equal(load_records(run_dir), whole)
    assert whole["reasoning"].isna().all()
    assert call("show", run_dir).status == 0
    store, unit = RunStore(run_dir), paths[0].stem
    rewrite(paths[0], lambda table: filled(table, "error_type", "Broken"))
    again = store.read_part(unit).slice(0, 3)
    assert store.amend_part(unit, filled(again, "reasoning", "흠"), store.read_statistics(unit))
    assert store.read_part(unit)["reasoning"].to_pylist()[:4] == ["흠"] * 3 + [None]


def test_a_part_without_any_other_column_is_another_versions(run_dir):
    rewrite(some_part(run_dir), lambda table: table.drop_columns(["finish_reason"]))
    assert "holds the records of another unit or version" in call("show", run_dir).err


def test_rows_beyond_what_a_unit_can_have_are_not_read(run_dir, monkeypatch):
    claimed = 2_000_000
    table = pa.table([pa.nulls(claimed, field.type) for field in SCHEMA], schema=SCHEMA)
    forged = {b"harness_unit": some_part(run_dir).stem.encode()}
    pq.write_table(table.replace_schema_metadata(forged), some_part(run_dir), compression="zstd")
    read = pq.ParquetFile.read

    def watched(file, *given, **named):
        assert file.metadata.num_rows < claimed, "millions of rows were read"
        return read(file, *given, **named)

    monkeypatch.setattr(pq.ParquetFile, "read", watched)
    assert "claims 2,000,000 rows, expected at most" in call("show", run_dir).err


def test_columns_that_unpack_to_gigabytes_are_not_read(monkeypatch):
    monkeypatch.setattr(parts, "MOST_BYTES", 1000)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": ["x" * 9000]}), sink, compression="zstd")
    with pytest.raises(ValueError, match="bytes, expected at most 1,000"):
        parts.open_parquet(sink.getvalue().to_pybytes())


def sample_table(ids, **columns):
    table = {"sample_id": ids, "gold": pa.array([0] * len(ids), pa.int32())}
    table |= {"answers": pa.array([[]] * len(ids), pa.list_(pa.string())), "cluster": [""] * len(ids)}
    return {name: column for name, column in {**table, **columns}.items() if column is not None}


@pytest.mark.parametrize(
    "table",
    [
        sample_table(["s00000", "s00000"]),
        sample_table(["x"], document=["x"]),
        sample_table([1]),
        sample_table(["x"], answers=None),
        sample_table(["x"], cluster=pa.array([None], pa.string())),
    ],
)
@pytest.mark.parametrize("verb", ["compare", "report"])
def test_samples_of_another_run_are_refused(run_dir, table, verb):
    pq.write_table(pa.table(table), Path(run_dir, "samples.parquet"))
    refused(call(verb, run_dir), "samples.parquet")


@pytest.mark.parametrize("text", ["{", "[]", '{"prompts": [{}]}', '{"prompts": [{"model": 5}]}', "null"])
def test_a_report_goes_on_without_prompts_that_are_damaged(run_dir, text):
    Path(run_dir, "prompts.json").write_text(text)
    result = call("report", run_dir)
    assert result.status == 0 and "prompts.json" in result.err
    assert Path(run_dir, "report.html").is_file()


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "dangling"])
@pytest.mark.parametrize("name", ["manifest.json", "samples.parquet"])
def test_what_is_no_file_in_a_files_place_is_refused_without_waiting(run_dir, kind, name):
    path = Path(run_dir, name)
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "/no/such/place")
    refused(call("compare", run_dir), name if kind != "dangling" or name != "manifest.json" else run_dir)


@pytest.mark.parametrize("name", ["pwn:TASK", "pwn:make", "http.server:test", "gone"])
@pytest.mark.parametrize("verb", READERS)
def test_reading_imports_nothing_that_a_run_directory_names(tmp_path, monkeypatch, name, verb):
    path = answered_run(tmp_path / "run") if verb == "export" else classified_run(tmp_path / "run", ["가"] * 12, SHARES)
    (tmp_path / "pwn.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').write_text('')")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("raise SystemExit('imported from the current directory')")
    edit(path, lambda m: m["config"]["task"].update(name=name))
    monkeypatch.chdir(tmp_path)
    before, search = set(sys.modules), list(sys.path)
    result = call(verb, path)
    assert result.status == 0, result.err
    assert sys.path == search, "the current directory is searched"
    assert not {"pwn", "http.server"} & (set(sys.modules) - before) and not (tmp_path / "ran").exists()


def test_figures_of_a_task_that_is_not_registered_come_from_the_stored_table(run_dir):
    cells = summarise(run_dir, metrics={"luck": lambda gold, predicted: float(np.mean(predicted))})
    RunStore(run_dir).write_table("cells.parquet", pa.Table.from_pandas(cells, preserve_index=False))
    edit(run_dir, lambda m: (m["config"]["task"].update(name="mine:TASK"), m.update(metrics=["luck"])))
    assert summarise(run_dir)["luck"].tolist() == cells["luck"].tolist()
    Path(run_dir, "cells.parquet").write_text("damaged")
    result = call("show", run_dir)
    assert result.status == 0 and "figures of its own (luck) are not shown" in result.err


def test_files_of_the_user_are_never_deleted(run_dir):
    kept = ["notes.tmp", "trying-notes.json", "a.json.tmp", "model.0123abcd.tmp", "parts/mine.tmp"]
    gone = ["manifest.json.0123abcd.tmp", "parts/aa.parquet.0123abcd.tmp", ".writable.0123abcd.tmp"]
    for name in (*kept, *gone):
        Path(run_dir, name).write_text("x")
    RunStore(run_dir).remove_leftovers()
    assert [name for name in (*kept, *gone) if Path(run_dir, name).exists()] == kept


@pytest.mark.parametrize("changed", ["document", "gold", "cluster"])
def test_runs_whose_samples_differ_under_one_id_are_not_compared(tmp_path, changed):
    one, two = (classified_run(tmp_path / name, [f"글 {i}" for i in range(12)], SHARES) for name in ("a", "b"))
    path = Path(two, "samples.parquet")
    table = pq.read_table(path)
    values = table[changed].to_pylist()
    values[3] = 1 - values[3] if changed == "gold" else values[3] + "?"
    place = table.column_names.index(changed)
    pq.write_table(
        table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type)), path
    )
    refused(call("compare", one, two), "sample 's00003'", "compare runs over the same samples")


def test_runs_of_the_same_samples_are_compared(tmp_path):
    paths = [classified_run(tmp_path / name, [f"글 {i}" for i in range(12)], SHARES) for name in ("a", "b")]
    assert call("compare", *paths).status == 0


@pytest.mark.parametrize(
    "name",
    ["", " ", "a\x1b[31m", "a\nb", "\udc00", "x" * 5000, "s3:/K:S@b", "s3://", "s3://K:HUNTER2/V@b/r", "gs://?x=1",
     "s3://b/x?secret_key=HUNTER2"],
)  # fmt: skip
@pytest.mark.parametrize("verb", READERS)
def test_what_names_no_run_directory_is_refused_in_one_safe_line(name, verb):
    result = call(verb, name)
    refused(result)
    assert "HUNTER2" not in result.err and "\x1b" not in result.err and len(result.err) < 800


def test_what_no_check_foresaw_still_ends_in_one_line(run_dir, monkeypatch):
    monkeypatch.setattr("harness.analysis.summary.records_by_cell", lambda *given: {}["gone"])
    refused(call("show", run_dir), "do not fit together (KeyError: 'gone')")
    monkeypatch.setenv("HARNESS_TRACEBACK", "1")
    assert "Traceback" in call("show", run_dir).err


def test_compare_raises_what_a_program_can_catch(tmp_path):
    from harness.analysis.compare import compare

    one, two = (classified_run(tmp_path / name, [f"{name} {i}" for i in range(12)], SHARES) for name in ("a", "b"))
    with pytest.raises(DataError, match="other texts"):
        compare([one, two])
