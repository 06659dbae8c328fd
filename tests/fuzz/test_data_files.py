"""Anything at all in data files: an answer, in which every row is counted, or one line."""

import io
import json
import shutil
import zipfile
from dataclasses import replace

import pandas as pd
import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from harness.config.loading import load_config
from harness.config.schema import TaskConfig
from harness.core.escaping import visible
from harness.core.task import TaskData, find_task
from harness.core.task_data import load_data
from harness.core.task_options import configured
from harness.prompts.templates import read_templates
from tasks.korquad_files import Schema, read_contexts
from tasks.nsmc import read_ratings
from tasks.table import TASK
from tasks.table_files import read_table
from tasks.table_rows import Rows, TableOptions
from tests.conftest import DEMO
from tests.fuzz.inputs import TEXTS, changed, damaged, one_line_at_most, place, share, written
from tests.told import call

RATINGS = b"".join((DEMO / "ratings_test.txt").read_bytes().splitlines(keepends=True)[:8])
QUESTION = {"id": "q", "question": "수도는?", "answers": [{"text": "서울", "answer_start": 0}]}
KORQUAD = {"data": [{"title": "가", "paragraphs": [{"context": "서울은 수도이다.", "qas": [QUESTION]}]}]}


@share("reviews")
@given(damaged(RATINGS))
def test_bytes_of_reviews(content):
    with one_line_at_most():
        frame, dropped = read_ratings(written(content))
        rows = [line for line in content.replace(b"\r", b"\n").split(b"\n")[1:] if line.strip()]
        assert len(frame) + dropped <= len(rows)
        assert b"\r" in content or len(frame) + dropped == len(rows), "a row vanished"


@share("questions")
@given(changed(KORQUAD) | damaged(json.dumps(KORQUAD).encode()))
@example({"data": [{"title": "a\nb"}]})
def test_question_files(content):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    with one_line_at_most():
        list(read_contexts([written(data)], Schema.V1))


# Tables -------------------------------------------------------------------------------------------------------------

OPTIONS = TableOptions(label="label", classes={"긍정": "긍정", "부정": "부정"})
ROWS = [{"id": f"0{n}", "text": f"영화 {n}, 좋다", "label": ("긍정", "부정")[n % 2]} for n in range(6)]
CSV = "id,text,label\n" + "".join(f'{r["id"]},"{r["text"]}",{r["label"]}\n' for r in ROWS)
JSONL = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS)
FILES = {"t.csv": CSV, "t.tsv": CSV.replace(", ", " ").replace(",", "\t"), "t.jsonl": JSONL, "t.json": json.dumps(ROWS)}
ENCODINGS = ["utf-8", "cp949", "utf-16", "latin-1", "unicode_escape", "idna", "undefined", "hex", "\0", "utf-7"]


def read_as_task(path, encoding="utf-8"):
    """Samples of a table, of which every row is one or counted."""
    table = read_table(path, encoding)
    notes = []
    samples = Rows(OPTIONS).samples(table, path.name, notes)
    left_out = sum(int(note.split(": ")[1].split()[0].replace(",", "")) for note in notes if " left out " in note)
    assert len(samples) + left_out == len(table.rows), notes
    check_samples(samples)


def check_samples(samples):
    if samples:
        data = TaskData(samples, [], next(iter(samples[0].fields)))
        load_data(replace(TASK, class_names=tuple(OPTIONS.classes), of=None, load=lambda _: data), TaskConfig())


@share("text tables")
@given(
    st.sampled_from(list(FILES)).flatmap(lambda name: st.tuples(st.just(name), damaged(FILES[name].encode()))),
    st.sampled_from(["utf-8"] * 20 + ENCODINGS),
)
@example(("t.jsonl", b'{"text": "\\ud800", "label": "a"}'), "utf-8")
@example(("t.jsonl", b'{"a": {"b": "x"}, "a.b": "y", "label": "z"}'), "utf-8")
@example(("t.csv", b"a b,a-b,label\n1,2,3\n"), "utf-8")
@example(("t.csv", b"text,label\nx,y\n"), "\0")
@example(("t.csv", b"text,label\nx,y\n"), "undefined")
@example(("t.json", b"[" * 5_000), "utf-8")
@example(("t.jsonl", b'{"a":' * 600 + b"1" + b"}" * 600), "utf-8")
def test_text_tables(file, encoding):
    name, content = file
    with one_line_at_most():
        read_as_task(written(content, name), encoding)


def binary_tables():
    """One sound file of each kind that is no text."""
    frame = pd.DataFrame(ROWS)
    parquet, arrow, sheet = io.BytesIO(), io.BytesIO(), io.BytesIO()
    frame.to_parquet(parquet)
    table = pa.Table.from_pandas(frame)
    with pa.ipc.new_stream(arrow, table.schema) as stream:
        stream.write_table(table)
    frame.to_excel(sheet, index=False)
    return {"t.parquet": parquet.getvalue(), "t.arrow": arrow.getvalue(), "t.xlsx": sheet.getvalue()}


def sheet_with(change):
    """An xlsx file with another text in its sheet."""
    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(BINARY["t.xlsx"])) as old, zipfile.ZipFile(found, "w") as new:
        for name in old.namelist():
            text = old.read(name)
            new.writestr(name, change(text) if name.endswith("sheet1.xml") else text)
    return found.getvalue()


BINARY = binary_tables()


@share("binary tables")
@given(
    st.sampled_from(list(BINARY)).flatmap(lambda name: st.tuples(st.just(name), damaged(BINARY[name]))),
    changed({"features": {"label": {"names": ["a", "b"]}}}),
)
@example(("t.arrow", BINARY["t.arrow"]), {"features": [1]})
@example(("t.arrow", BINARY["t.arrow"]), {"features": {"label": {"names": 5}}})
@example(("t.xlsx", sheet_with(lambda text: text[: len(text) // 2])), {})
@example(("t.xlsx", sheet_with(lambda text: text.replace(b'r="2"', b'r="99999999"'))), {})
def test_binary_tables(file, info):
    name, content = file
    folder = place("tables")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / name).write_bytes(content)
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with one_line_at_most():
        read_as_task(folder if name == "t.arrow" else folder / name)


COLUMNS = st.sampled_from(
    ["id", "text", "label", "cluster", "정답", "a b", "a-b", "{x}", "class", "\x7f", "\ufffe", "#"]
)


@share("init")
@given(
    st.lists(COLUMNS | TEXTS, min_size=1, max_size=5),
    st.lists(st.lists(TEXTS, min_size=5, max_size=5), max_size=6),
    st.sampled_from(["좋다", "a: b", "yes", "\x7f", "\ufffe", "{}", "'", '"', "\x85"]),
    st.booleans(),
    TEXTS,
)
@example(["text", "label"], [], "\x85", False, "가" * 80)
@example(["cluster", "label"], [["가나다라"] * 5], "a", True, "t")
def test_init(columns, rows, word, chat, stem):
    folder = place("init")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    cells = [dict(zip(columns, row, strict=False)) for row in rows]
    named = [{**row, "text": f"{word} {n}번 글", "label": ("긍정", word)[n % 2]} for n, row in enumerate(cells * 4)]
    name = visible(stem.encode("ascii", "ignore").decode().strip(". ~").replace("/", "")) or "t"
    path = folder / f"{name[:100]}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in named), encoding="utf-8")
    told = call("init", path, "--label", "label", "--to", folder / "out", *(["--chat"] if chat else []))
    assert told.status in (0, 2) and "Traceback" not in told.err, told.err
    assert not {"\x1b", "\x9b", "\u202e"} & set(told.out + told.err)
    if told.status:
        assert len([line for line in told.err.splitlines() if line.startswith("error: ")]) == 1, told.err
        assert not list(folder.glob("out/*"))
        return
    (grid,) = (folder / "out").glob("*_grid.yaml")
    config = load_config(grid)
    task, config_of_task = configured(find_task("table"), config.task)
    load_data(task, config_of_task)
    assert read_templates(config.task.templates_file, task.class_names)
