"""The `table` task: files of many kinds to samples, texts as they are, and one line for each mistake."""

import json
import logging

import openpyxl
import pandas as pd
import pyarrow as pa
import pytest

from harness.config.loading import config_from
from harness.config.schema import TaskConfig
from harness.core.errors import ConfigError, DataError
from harness.core.task_data import load_data
from harness.core.task_options import configured, read_options
from tasks.korquad import DocumentOptions
from tasks.nsmc import TASK as NSMC
from tasks.table import TASK
from tasks.table_cells import field_name
from tests.conftest import SHARED

TEXTS = ["좋아요, 정말\n최고", "NA", "null", "01", "1.0", " 빈칸 ", "탭\t안", "줄\u2028끝", '"따옴표"', "\r홀로"]
LABELS = ["good", "bad", "soso"]
ROWS = [{"번호": f"{n:03}", "리뷰": text, "감정": LABELS[n % 3]} for n, text in enumerate(TEXTS)]


def loaded(place, name="table", **options):
    """Task and data of a table."""
    config = TaskConfig(name=name, data_dir=str(place), options=options)
    task, config = configured(TASK, config)
    return task, load_data(task, config)


def by_id(data):
    return {s.id: s for s in [*data.samples, *data.pool]}


def as_csv(path, encoding="utf-8", **how):
    pd.DataFrame(ROWS).to_csv(path, index=False, encoding=encoding, **how)


def as_datasets_folder(path):
    """What `save_to_disk` of Hugging Face `datasets` writes of a column of classes: indices, and names beside them."""
    path.mkdir()
    table = pa.Table.from_pylist([{**row, "감정": LABELS.index(row["감정"])} for row in ROWS])
    with pa.ipc.new_stream(path / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table)
    features = {"리뷰": {"dtype": "string", "_type": "Value"}, "감정": {"names": LABELS, "_type": "ClassLabel"}}
    (path / "dataset_info.json").write_text(json.dumps({"features": features}), encoding="utf-8")


def as_sheet(path):
    book = openpyxl.Workbook()
    book.active.append(list(ROWS[0]))
    for row in ROWS:
        book.active.append(list(row.values()))
    book.save(path)


def lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


WRITERS = {
    "t.csv": as_csv,
    "bom.csv": lambda path: as_csv(path, "utf-8-sig"),
    "t.tsv": lambda path: as_csv(path, sep="\t"),
    "semicolons.csv": lambda path: as_csv(path, sep=";"),
    "t.jsonl": lambda path: lines(path, ROWS),
    "t.json": lambda path: path.write_text(json.dumps({"version": "1", "data": ROWS}), encoding="utf-8"),
    "t.parquet": lambda path: pd.DataFrame(ROWS).to_parquet(path),
    "saved": as_datasets_folder,
}


@pytest.mark.parametrize("name", WRITERS)
def test_texts_are_what_the_file_holds(tmp_path, name):
    WRITERS[name](tmp_path / name)
    task, data = loaded(tmp_path, label="감정", id="번호", test=name)
    assert task.class_names == ("bad", "good", "soso")
    found = by_id(data)
    assert [found[row["번호"]].fields["리뷰"] for row in ROWS] == TEXTS
    assert [task.class_names[found[row["번호"]].gold] for row in ROWS] == [row["감정"] for row in ROWS]
    assert len(data.pool) == 2


def test_a_sheet_keeps_its_texts(tmp_path):
    as_sheet(tmp_path / "t.xlsx")
    _, data = loaded(tmp_path / "t.xlsx", label="감정", id="번호")
    # The format itself has no line ends but \n; what a lone \r becomes depends on the reader of XML.
    wanted = [text.replace("\r", "\n") for text in TEXTS]
    found = [by_id(data)[row["번호"]].fields["리뷰"] for row in ROWS]
    assert [text.replace("_x000D_", "\n").replace("\r", "\n") for text in found] == wanted


def test_a_cp949_file_is_named_and_read(tmp_path):
    rows = pd.DataFrame([{"리뷰": "좋아요", "감정": "긍정"}, {"리뷰": "싫어요", "감정": "부정"}])
    rows.to_csv(tmp_path / "t.tsv", sep="\t", index=False, encoding="cp949")
    with pytest.raises(DataError, match=r"line 1; it is likely cp949: set task\.options\.encoding=cp949"):
        loaded(tmp_path, label="감정")
    _, data = loaded(tmp_path, label="감정", encoding="cp949")
    assert {s.fields["리뷰"] for s in by_id(data).values()} == {"좋아요", "싫어요"}


def test_nested_fields_and_numbers_are_columns_as_they_are_written(tmp_path):
    rows = [{"id": n, "meta": {"text": f"문장 {n}", "score": 1.0}, "y": n % 2 == 0} for n in range(6)]
    lines(tmp_path / "t.jsonl", rows)
    task, data = loaded(tmp_path, label="y", id="id")
    assert task.class_names == ("false", "true")
    assert by_id(data)["3"].fields == {"meta_text": "문장 3", "meta_score": "1.0"}


def test_boolean_labels_of_parquet(tmp_path):
    pd.DataFrame({"text": ["가", "나", "다"], "y": [True, False, True]}).to_parquet(tmp_path / "t.parquet")
    assert loaded(tmp_path, label="y")[0].class_names == ("false", "true")


def test_number_labels_are_in_the_order_of_numbers(tmp_path):
    lines(tmp_path / "t.jsonl", [{"text": f"가{n}", "stars": n} for n in (10, 9, 1, 2)])
    assert loaded(tmp_path, label="stars")[0].class_names == ("1", "2", "9", "10")


def test_classes_have_the_order_and_the_names_given(tmp_path):
    as_csv(tmp_path / "t.csv")
    names = {"good": "좋음", "soso": "보통", "bad": "나쁨"}
    task, data = loaded(tmp_path, label="감정", id="번호", classes=names)
    assert task.class_names == ("좋음", "보통", "나쁨")
    assert by_id(data)["001"].gold == 2


def test_answers_are_texts_or_lists_of_them(tmp_path):
    lines(tmp_path / "t.jsonl", [{"q": "수도?", "a": ["서울", "서울시"]}, {"q": "1+1?", "a": "2"}, {"q": "?", "a": []}])
    task, data = loaded(tmp_path, answer="a", pool_share=0.5)
    assert list(task.answer_metrics) == ["exact_match", "f1"]
    assert {s.answers for s in by_id(data).values()} == {("서울", "서울시"), ("2",)}
    assert "t.jsonl: 1 left out without an answer" in data.notes


def test_a_file_without_quoting_keeps_its_quotation_marks(tmp_path):
    (tmp_path / "t.tsv").write_text('text\ty\n"아\tbad\n나" 는\tgood\n', encoding="utf-8")
    _, data = loaded(tmp_path, label="y", pool_share=0.5)
    assert {s.fields["text"] for s in by_id(data).values()} == {'"아', '나" 는'}
    assert any("quotation marks are text" in note for note in data.notes)


def test_files_named_train_and_test_are_told_apart(tmp_path):
    for name, words in (("train.csv", "가나다"), ("test.csv", "다라마")):
        pd.DataFrame({"text": list(words), "y": ["a", "b", "a"]}).to_csv(tmp_path / name, index=False)
    _, data = loaded(tmp_path, label="y")
    assert [s.fields["text"] for s in data.samples] == list("다라마")
    assert [s.fields["text"] for s in data.pool] == list("가나")
    assert "1 demonstrations whose texts are asked about too, left out" in data.notes


def test_rows_are_filtered_and_left_out_with_their_reason_and_count(tmp_path):
    rows = [
        ("가", "a", "ko"),
        ("b", "b", "en"),
        ("", "a", "ko"),
        ("다", "", "ko"),
        ("라", "b", "ko"),
        ("마", "a", "ko"),
    ]
    pd.DataFrame(rows, columns=["text", "y", "lang"]).to_csv(tmp_path / "t.csv", index=False)
    _, data = loaded(tmp_path, label="y", filter={"lang": "ko"})
    assert {s.fields["text"] for s in by_id(data).values()} == {"가", "라", "마"}
    assert {n for n in data.notes if "left out" in n} == {
        "t.csv: 1 left out with another 'lang' than task.options.filter names",
        "t.csv: 1 left out without a label",
        "t.csv: 1 left out without text",
    }


def test_the_split_is_seeded_exact_and_keeps_sources_together(tmp_path):
    rows = [{"text": f"문장 {n}", "y": "ab"[n % 2], "who": f"w{n // 4}"} for n in range(40)]
    lines(tmp_path / "t.jsonl", rows)
    _, first = loaded(tmp_path, label="y", source="who", pool_share=0.3)
    _, again = loaded(tmp_path, label="y", source="who", pool_share=0.3)
    assert first == again
    assert len(first.pool) == 12
    assert {s.source for s in first.pool}.isdisjoint(s.source for s in first.samples)


def test_columns_that_some_rows_lack_are_no_fields(tmp_path):
    lines(
        tmp_path / "t.jsonl",
        [{"text": f"가{n}", "y": "ab"[n % 2], **({"more": "x"} if n > 1 else {})} for n in range(5)],
    )
    _, data = loaded(tmp_path, label="y")
    assert set(data.samples[0].fields) == {"text"}
    assert "t.jsonl: 2 of 5 rows have no 'more', so that templates cannot name it" in data.notes
    with pytest.raises(DataError, match=r"line 1 has no 'more', which task\.options\.fields names"):
        loaded(tmp_path, label="y", fields=["text", "more"])


@pytest.mark.parametrize(("column", "name"), [("meta.text", "meta_text"), ("리뷰 내용", "리뷰_내용"), ("1st", "_1st")])
def test_columns_get_names_that_templates_can_write(column, name):
    assert field_name(column) == name


MANY = "".join(f"가{n},{n}\n" for n in range(500))
GOOD = "t.csv", "text,y\n가,a\n나,b\n"
FAULTS = {
    "label missing": (
        "t.csv",
        "text,label\n가,a\n나,b\n",
        {"label": "labels"},
        r"is 'labels', but .* no such column; did",
    ),
    "one class": ("t.csv", "text,y\n가,a\n나,a\n", {"label": "y"}, r"holds 1 class \(\['a'\]\), expected"),
    "an id": (
        "t.csv",
        "text,y\n" + "".join(f"가{n},{n}\n" for n in range(500)),
        {"label": "y"},
        "500 different labels",
    ),
    "twice": (
        "t.csv",
        "n,text,y\n1,가,a\n1,나,b\n",
        {"label": "y", "id": "n"},
        r"line 3: the id '1' comes twice \(first",
    ),
    "class": ("t.csv", "text,y\n가,a\n나,c\n", {"label": "y", "classes": ["a", "b"]}, r"line 3: the label is 'c'"),
    "cells": ("t.csv", "text,y\n가,a\n나,b,c\n", {"label": "y"}, r"line 3: 3 cells, expected 2"),
    "quote": ("t.csv", 'text,y\n"가,a\n나,b,c\n', {"label": "y"}, r"line 2"),
    "columns": ("t.csv", "text,text\n가,a\n", {"label": "y"}, r"the column 'text' comes twice"),
    "json": ("t.jsonl", '{"text": "가", "y": 1}\n{"text": "나", ', {"label": "y"}, r"line 2: no valid JSON"),
    "json key": ("t.jsonl", '{"y": "가", "y": 1}\n', {"label": "y"}, r"line 1: .*a key comes twice"),
    "json text": ("t.json", '"text"', {"label": "y"}, r"holds a str, expected a list of rows"),
    "parquet": ("t.parquet", "PAR1", {"label": "y"}, r"is no parquet file"),
    "sheet": ("t.xlsx", "PK", {"label": "y"}, r"is no xlsx file: .*save the sheet as CSV"),
    "ending": ("t.doc", "x", {"label": "y", "test": "t.doc"}, r"ends in '\.doc'; expected a table"),
    "no file": (*GOOD, {"label": "y", "test": "u.csv"}, r"no file '.*u\.csv'"),
    "filter": (*GOOD, {"label": "y", "filter": {"z": "1"}}, r"filter is 'z', but"),
    "all gone": (
        "t.csv",
        "text,y\n가,a\n나,b\n",
        {"label": "y", "filter": {"y": "c"}},
        r"leaves no row to ask about",
    ),
    "both": (*GOOD, {"label": "y", "answer": "text"}, "both name a column"),
    "neither": (*GOOD, {}, "name no column; expected one"),
    "option": (
        "t.csv",
        "text,y\n가,a\n나,b\n",
        {"lable": "y"},
        r"no option 'task\.options\.lable'; did you mean 'label'",
    ),
    "kind": (
        "t.csv",
        "text,y\n가,a\n나,b\n",
        {"label": 3},
        r"task\.options\.label is 3: input should be a valid string",
    ),
    "share": (
        "t.csv",
        "text,y\n가,a\n나,b\n",
        {"label": "y", "pool_share": 2.0},
        r"task\.options\.pool_share is 2\.0: .*0\.9",
    ),
    "encoding": (
        "t.csv",
        "text,y\n가,a\n나,b\n",
        {"label": "y", "encoding": "klingon"},
        "is 'klingon', expected one such",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_mistake_ends_in_one_line(tmp_path, name):
    file, text, options, message = FAULTS[name]
    (tmp_path / file).write_text(text, encoding="utf-8")
    with pytest.raises((ConfigError, DataError), match=message) as found:
        loaded(tmp_path, **options)
    assert "\n" not in str(found.value)


def test_files_of_one_folder_have_the_same_columns(tmp_path):
    for name, column in (("a.csv", "text"), ("b.csv", "texts")):
        pd.DataFrame({column: ["가", "나"], "y": ["a", "b"]}).to_csv(tmp_path / name, index=False)
    with pytest.raises(DataError, match=r"different columns \(text, texts in one only\)"):
        loaded(tmp_path, label="y")


def test_a_sheet_without_openpyxl_says_what_to_install(tmp_path, monkeypatch):
    as_sheet(tmp_path / "t.xlsx")
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(DataError, match=r"needs openpyxl; install it \(pip install openpyxl\)"):
        loaded(tmp_path / "t.xlsx", label="감정")


def test_bytes_in_parquet_are_left_out_with_a_note(tmp_path):
    table = pa.table({"text": ["가", "나"], "image": [b"1", b"2"], "y": ["a", "b"]})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    _, data = loaded(tmp_path, label="y", pool_share=0.5)
    assert "t.parquet: columns of bytes are left out: image" in data.notes


def test_options_of_a_task_without_any_are_refused():
    from tasks.korquad import TASK_1

    with pytest.raises(ConfigError, match=r"task 'korquad1' has no options, but task\.options names windows"):
        configured(TASK_1, TaskConfig(name="korquad1", options={"windows": 3}))


def test_old_keys_are_options_now(caplog):
    with caplog.at_level(logging.WARNING):
        config = config_from({"task": {"name": "korquad2", "windows": 5}})
    assert read_options(config.task, DocumentOptions) == DocumentOptions(windows=5)
    assert "task.windows is now task.options.windows; the old key still works" in caplog.text


def test_a_bare_no_says_what_yaml_made_of_it():
    with pytest.raises(ConfigError, match=r"task\.options\.id is False: .*put it in quotes"):
        configured(TASK, TaskConfig(name="table", options={"id": False}))


def test_options_read_once_are_read_no_more():
    _, config = configured(NSMC, TaskConfig(options={"clean_text": False}))
    assert configured(NSMC, config)[1] is not None
    assert config.options.clean_text is False


def test_all_pairs_of_klue_nli_load():
    folder = SHARED / "data" / "klue"
    if not folder.is_dir():
        pytest.skip("no KLUE files: ../shared/data/klue beside the repository is absent")
    task, data = loaded(
        folder, label="gold_label", id="guid", test="klue-nli-v1.1_dev.json", fields=["premise", "hypothesis"]
    )
    assert task.class_names == ("contradiction", "entailment", "neutral")
    assert len(data.samples) + len(data.pool) == 3000
