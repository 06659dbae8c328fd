"""Names of a table's columns as fields: none is lost, none takes the place of what a run directory keeps."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from harness.config.schema import TaskConfig
from harness.core.errors import DataError
from harness.core.task import KEPT_FIELDS, Sample, TaskData
from harness.core.task_data import load_data
from harness.results import samples
from tasks.table_cells import field_name
from tasks.table_files import read_table
from tests.test_table import ROWS, lines, loaded


@pytest.mark.parametrize("name", KEPT_FIELDS)
def test_names_that_run_directories_keep_get_an_underscore(name):
    assert field_name(name) == f"{name}_"
    assert set(KEPT_FIELDS) == {*samples.KEPT, samples.CHOICES}


def test_a_column_named_as_a_samples_own_fact_takes_nothing_in_its_place(tmp_path):
    rows = [{"text": f"글 {n}", "cluster": f"가게 {n % 3}", "gold": "금", "y": "ab"[n % 2]} for n in range(9)]
    lines(tmp_path / "t.jsonl", rows)
    task, data = loaded(tmp_path, label="y")
    assert set(data.samples[0].fields) == {"text", "cluster_", "gold_"}
    table = samples.table_of(data.samples)
    assert set(table["cluster"].to_pylist()) == {""} and table.schema.field("gold").type == "int32"
    with pytest.raises(DataError, match="its samples have a field 'gold', a name that run directories keep"):
        load_data(replace(task, load=lambda _: TaskData([Sample("1", {"gold": "x"}, 0)], [], "gold")), TaskConfig())


def test_columns_of_one_name_and_keys_of_one_column_are_told(tmp_path):
    lines(tmp_path / "t.jsonl", [{"a b": "1", "a-b": "2", "y": "ab"[n % 2]} for n in range(6)])
    with pytest.raises(DataError, match=r"the columns 'a b' and 'a-b' are both \{a_b\} in templates"):
        loaded(tmp_path, label="y")
    lines(tmp_path / "t.jsonl", [{"a": {"b": "1"}, "a.b": "2", "y": "c"}])
    with pytest.raises(DataError, match=r"line 1: the column 'a\.b' comes twice"):
        loaded(tmp_path, label="y")


def test_nan_in_json_is_missing_as_in_parquet(tmp_path):
    rows = [json.dumps({"text": float("nan"), "y": "a"}), *['{"text": "글", "y": "b"}'] * 3]
    (tmp_path / "t.jsonl").write_text("\n".join(rows), encoding="utf-8")
    assert read_table(tmp_path / "t.jsonl", "utf-8").rows[0]["text"] is None


def test_a_folder_named_as_partitions_are_adds_no_column(tmp_path):
    folder = tmp_path / "lang=ko"
    folder.mkdir()
    pd.DataFrame(ROWS).to_parquet(folder / "t.parquet")
    assert set(read_table(folder / "t.parquet", "utf-8").columns) == set(ROWS[0])


def test_an_encoding_that_reads_backslashes_is_no_encoding_of_tables(tmp_path):
    file = tmp_path / "t.csv"
    file.write_bytes(b"text,label\n\\q,1\n")
    with pytest.raises(DataError, match="expected one such as utf-8 or cp949"):
        read_table(file, "unicode_escape")
