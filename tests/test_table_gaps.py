"""What a table says that is not there, rows that quoting would swallow, and files that names do not tell apart."""

import json

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.config.schema import TaskConfig
from harness.core.errors import DataError
from harness.core.task_data import load_data
from harness.core.task_options import configured
from tasks.table import TASK
from tasks.table_cells import Cells, text_of


def loaded(place, **options):
    task, config = configured(TASK, TaskConfig(name="table", data_dir=str(place), options=options))
    data = load_data(task, config)
    return task, [*data.samples, *data.pool], data.notes


def lines(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


def test_null_within_a_list_is_no_choice_and_no_answer(tmp_path):
    rows = [{"q": f"물음 {n}", "choices": ["가", None, "나"], "answer": 3, "gold": ["가", None]} for n in range(6)]
    lines(tmp_path / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    for name in ("a.jsonl", "b.parquet"):
        task, samples, _ = loaded(tmp_path / name, choices="choices", answer="answer", answer_is="1", fields=["q"])
        # The number counts places of the list.
        assert task.class_names == ("1", "2")
        assert all(s.choices == ("가", "나") and s.gold == 1 for s in samples)
        _, samples, _ = loaded(tmp_path / name, answer="gold", fields=["q"])
        assert all(s.answers == ("가",) for s in samples)
    assert text_of([float("nan"), True, 1.0, {"a": 1}]) == Cells(("", "true", "1.0", '{"a": 1}'))


def test_nan_and_errors_of_excel_are_no_labels(tmp_path):
    lines(tmp_path / "a.jsonl", [{"t": f"글 {n}", "y": [float("nan"), 0, 1][n % 3]} for n in range(9)])
    book = openpyxl.Workbook()
    for row in [["t", "y"], *([f"글 {n}", ["#N/A", 0, 1][n % 3]] for n in range(9))]:
        book.active.append(row)
    for row in book.active.iter_rows(min_row=2, min_col=2, max_col=2):
        if row[0].value == "#N/A":
            row[0].data_type = "e"
    book.active.cell(row=3, column=4).value = "옆에 적은 말"
    book.save(tmp_path / "b.xlsx")
    for name in ("a.jsonl", "b.xlsx"):
        task, samples, notes = loaded(tmp_path / name, label="y", fields=["t"])
        assert task.class_names == ("0", "1") and len(samples) == 6
        assert f"{name}: 3 left out without a label" in notes
    assert "b.xlsx: 1 rows have cells beside the columns of the header, passed over" in notes


def test_rows_with_nothing_in_one_of_several_columns_are_counted(tmp_path):
    lines(tmp_path / "a.jsonl", [{"p": f"앞 {n}", "h": "" if n == 2 else "뒤", "y": n % 2} for n in range(8)])
    _, samples, notes = loaded(tmp_path, label="y", fields=["p", "h"])
    assert len(samples) == 8 and "a.jsonl: 1 rows are asked with nothing in 'h'" in notes


ROWS = [("1", '"좋다', "1"), ("2", "그저", "0"), ("3", '나쁘다"', "0"), ("4", "별로", "0"), ("5", "굿", "1")]


@pytest.mark.parametrize(("name", "separator"), [("a.tsv", "\t"), ("a.csv", ","), ("a.csv", ";")])
def test_two_quotation_marks_that_are_letters_do_not_join_the_rows_between_them(tmp_path, name, separator):
    text = "\n".join(separator.join(row) for row in [("id", "t", "y"), *ROWS]) + "\n"
    (tmp_path / name).write_text(text, encoding="utf-8")
    _, samples, notes = loaded(tmp_path, label="y", id="id", fields=["t"])
    assert sorted((s.id, s.fields["t"], str(s.gold)) for s in samples) == ROWS
    assert any("quotation marks are text, since as quoting they would join rows" in note for note in notes)


def test_where_other_cells_need_their_quotes_swallowed_rows_are_refused_by_line(tmp_path):
    text = 'id,t,y\n1,"좋다, 정말",1\n2,"그저,0\n3,나쁘다",0\n4,별로,0\n5,굿,1\n'
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv' line 3: a quoted cell holds what looks like 2 rows"):
        loaded(tmp_path, label="y", fields=["t"])


def test_a_text_of_several_lines_with_commas_stays_one(tmp_path):
    texts = ["음, 좋다\n최고", "가, 1\n나, 다", "별로", "굿", "하나,\n둘,\n셋", "줄\n줄"]
    pd.DataFrame({"t": texts, "y": [1, 0, 1, 0, 1, 0]}).to_csv(tmp_path / "a.csv", index=False)
    _, samples, _ = loaded(tmp_path, label="y")
    assert sorted(s.fields["t"] for s in samples) == sorted(texts)


def test_training_rows_are_not_asked_because_no_name_says_what_is(tmp_path):
    rows = [{"t": f"글 {n}", "y": n % 2} for n in range(8)]
    lines(tmp_path / "train.jsonl", rows)
    for names in (["eval.jsonl"], ["test-0.jsonl", "test-1.jsonl"]):
        for name in names:
            lines(tmp_path / name, [{**row, "t": row["t"] + name} for row in rows])
        with pytest.raises(DataError, match=r"train\.jsonl and .*cannot be told by its name"):
            loaded(tmp_path, label="y")
        _, samples, _ = loaded(tmp_path, label="y", test=names[0])
        assert len(samples) == 16
        for name in names:
            (tmp_path / name).unlink()
    # Where all are named so, they are split.
    lines(tmp_path / "train-2.jsonl", [{**row, "t": row["t"] + "2"} for row in rows])
    assert len(loaded(tmp_path, label="y")[1]) == 16


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
@pytest.mark.parametrize("encoding", ["cp949", "euc-kr", "latin-1", "cp1252"])
def test_utf_8_is_not_read_as_what_takes_its_bytes_for_other_characters(tmp_path, name, encoding):
    rows = [{"t": f"영화 {n}", "y": n % 2} for n in range(8)]
    if name == "a.csv":
        pd.DataFrame(rows).to_csv(tmp_path / name, index=False)
    else:
        lines(tmp_path / name, rows)
    with pytest.raises(DataError, match=r"encoding=utf-8"):
        loaded(tmp_path, label="y", encoding=encoding)
    text = (tmp_path / name).read_text(encoding="utf-8")
    if encoding in ("cp949", "euc-kr"):
        (tmp_path / name).write_bytes(text.encode(encoding))
        _, samples, _ = loaded(tmp_path, label="y", encoding=encoding)
        assert all(s.fields["t"].startswith("영화 ") for s in samples)


def test_characters_that_were_lost_before_are_counted(tmp_path):
    rows = [{"t": f"영화 {n}" + "\ufffd" * (n == 3), "y": n % 2} for n in range(8)]
    lines(tmp_path / "a.jsonl", rows)
    assert (
        "a.jsonl: 1 rows hold U+FFFD, which stands for characters that were lost before"
        in loaded(tmp_path, label="y")[2]
    )
