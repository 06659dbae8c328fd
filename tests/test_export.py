"""`harness export` and `harness data get`: formats and files are those that the task names."""

import json
from types import SimpleNamespace

import pytest

from harness.results.store import RunStore
from tests.simulated_runs import sample_ids, write_cell, write_manifest, write_samples
from tests.told import call, refused

OWN_TASK = """
from pathlib import Path
from harness import ExportFormat, Task

def lines(answers):
    return "".join(f"{name}\\t{answer}\\n" for name, answer in answers.items())

TASK = Task(
    name="own", version="1", description="Own questions", templates=Path("none.yaml"), expected_files=("mine.tsv",),
    load=None, answer_metrics={"exact": lambda answer, sample: 0.0}, exports={"lines": ExportFormat(".tsv", lines)},
)
"""


@pytest.fixture
def own_task(tmp_path, monkeypatch):
    """A registered task with an export format and no official files."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "own_export_task.py").write_text(OWN_TASK, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    entry = SimpleNamespace(name="own", value="own_export_task:TASK")
    monkeypatch.setattr("harness.core.entry_points.installed", lambda group, path: (entry,))


def answered_run(path, task):
    """A run of a task with one cell of three answers, of which the last failed."""
    store = RunStore(str(path))
    store.create()
    write_manifest(store, ["a"], [0], [1], 3, metrics=["exact"])
    manifest = store.read_json("manifest.json")
    manifest["config"]["task"]["name"] = task
    store.write_json("manifest.json", manifest)
    write_samples(store, ["x"] * 3)
    columns = {"gold": [-1] * 3, "answer": ["하나", "둘", None], "answer_values": [[1.0], [0.0], None]}
    write_cell(store, "a", 0, 1, columns)
    return str(path)


@pytest.mark.parametrize("options", [(), ("--format", "korquad")])
def test_korquads_format_is_one_object_from_question_to_answer(tmp_path, options):
    told = call("export", answered_run(tmp_path / "run", "korquad1"), *options)
    assert told.status == 0, told.err
    (file,) = (tmp_path / "run" / "predictions").iterdir()
    assert file.suffix == ".json"
    assert json.loads(file.read_text(encoding="utf-8")) == dict(zip(sample_ids(2), ["하나", "둘"], strict=True))


@pytest.mark.parametrize("options", [(), ("--format", "lines")])
def test_a_task_brings_its_own_format(tmp_path, own_task, options):
    told = call("export", answered_run(tmp_path / "run", "own"), *options)
    assert told.status == 0, told.err
    (file,) = (tmp_path / "run" / "predictions").iterdir()
    assert file.suffix == ".tsv"
    assert file.read_text(encoding="utf-8") == "s00000\t하나\ns00001\t둘\n"


def test_a_task_that_is_not_registered_is_not_imported_and_has_the_common_format(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "hostile.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    told = call("export", answered_run(tmp_path / "run", "hostile:TASK"))
    assert told.status == 0, told.err
    (file,) = (tmp_path / "run" / "predictions").iterdir()
    assert json.loads(file.read_text(encoding="utf-8"))["s00000"] == "하나"


def test_a_format_that_the_task_does_not_have_is_refused_with_those_it_has(tmp_path, own_task):
    run_dir = answered_run(tmp_path / "run", "own")
    refused(call("export", run_dir, "--format", "korquad"), "no format 'korquad'; known: lines")
    refused(call("export", run_dir, "--format", "line"), "did you mean 'lines'?")
    assert not (tmp_path / "run" / "predictions").exists()


def test_files_are_those_of_a_registered_task(tmp_path, own_task):
    refused(call("data", "get", "nsmcc"), "no data set 'nsmcc'; did you mean 'nsmc'?")
    refused(call("data", "get", "own", "--to", tmp_path / "x"), "task 'own' has no official files", "mine.tsv")
    assert not (tmp_path / "x").exists()
