"""The command line as a user meets it: results, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.core.escaping import visible
from tests.conftest import REPO
from tests.simulated_runs import classified_run

CONFIG = "configs/demo.yaml"
MODEL = Path("data_in/models/ko-tiny")


@pytest.fixture
def harness(monkeypatch, capfd):
    """Runs the command line in this process; returns exit status, standard output and error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capfd.readouterr()
        return status, out, err

    return call


@pytest.fixture
def data(tmp_path):
    """Writes a small NSMC folder; `train` and `test` are rows (id, document, label)."""

    def write(train=None, test=None, header="id\tdocument\tlabel") -> str:
        train = train or [(str(i), f"영화 {'가나다라마바사아자차'[i]} 좋다", i % 2) for i in range(10)]
        test = test or [(str(100 + i), f"시험 {'가나다라'[i]} 별로", i % 2) for i in range(4)]
        for name, rows in (("ratings_train.txt", train), ("ratings_test.txt", test)):
            lines = [header, *("\t".join(map(str, row)) for row in rows)]
            (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(tmp_path)

    return write


def assert_refused(result: tuple[int, str, str], *parts: str) -> None:
    status, _, err = result
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2, err
    assert len(errors) == 1, err
    assert "Traceback" not in err
    for part in parts:
        assert part in errors[0]


def inline(tmp_path, *more: str) -> list[str]:
    return ["run", CONFIG, "cluster.address=inline", f"out={tmp_path}/out", *more]


def test_run_prints_the_cells_and_show_gives_them_in_every_format(harness, tmp_path):
    status, out, _ = harness(*inline(tmp_path, "task.limit=8", "grid.templates=[lecture_1]", "grid.k=[0,2]"))
    assert status == 0
    assert "lecture_1" in out and "Accuracy over demonstration seeds" in out
    run_dir = f"{tmp_path}/out/demo"
    status, out, _ = harness("show", run_dir, "--format", "json")
    rows = json.loads(out)
    assert [(r["k"], r["seed"]) for r in rows] == [(0, 1), (0, 2), (2, 1), (2, 2)]
    names = "model task template k seed n_attempted n_scored n_failed accuracy low high macro_f1"
    assert set(names.split()) | {"predicted_positive_share", "off_label_mass"} <= set(rows[0])
    assert all(r["n_attempted"] == 8 and r["low"] <= r["accuracy"] <= r["high"] for r in rows)
    _, out, _ = harness("show", run_dir, "--format", "csv")
    assert out.splitlines()[0].startswith("model,task,template,k,seed,n_attempted")
    assert len(out.splitlines()) == 5
    _, out, _ = harness("show", run_dir, "--format", "md")
    assert out.startswith("| model | task | template |") and len(out.splitlines()) == 6
    assert_refused(harness("show", run_dir, "--format", "xml"), "no format 'xml'", "table")


def test_prompts_are_json_lines_as_the_engine_sees_them(harness):
    status, out, _ = harness("prompts", CONFIG, "--limit", "5")
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and len(lines) == 5
    assert {"template", "k", "seed", "sample_id", "gold", "text", "token_ids"} == set(lines[0])
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(MODEL)(lines[0]["text"])["input_ids"] == lines[0]["token_ids"]


def test_plan_tells_cost_lengths_and_boundaries_without_loading_a_model(harness, monkeypatch):
    import harness.engine.local.loading as loading

    monkeypatch.setattr(loading, "load_model", lambda spec: pytest.fail("a model was loaded"))
    status, out, _ = harness("plan", CONFIG)
    assert status == 0
    for text in ("as one pass per prompt", "unique", "80th percentile", "boundary ok: lecture_1", "--- english ---"):
        assert text in out


def test_tasks_lists_templates_labels_and_files(harness):
    status, out, _ = harness("tasks")
    assert status == 0
    for text in ("nsmc", "lecture_1_no_newline", "' 긍정'", "ratings_train.txt"):
        assert text in out


@pytest.mark.parametrize("verb", ["run", "plan", "prompts", "show", "tasks"])
def test_help_of_every_verb_has_an_example(harness, verb):
    status, out, _ = harness(verb, "--help")
    assert status == 0
    assert f"Example: harness {verb}" in out


def test_configuration_mistakes_are_refused(harness):
    assert_refused(harness("run", "nowhere.yaml"), "no configuration file 'nowhere.yaml'")
    assert_refused(harness("plan", CONFIG, "grid.template=[a]"), "'grid.template'", "did you mean 'templates'?")
    assert_refused(harness("plan", CONFIG, "task.limit=many"), "task.limit")
    assert_refused(harness("plan", CONFIG, "grid.k=4"), "grid.k", "expected a list")


def test_data_mistakes_are_refused(harness, tmp_path, data):
    assert_refused(harness("plan", CONFIG, f"task.data_dir={tmp_path}/none"), "no file", "ratings_test.txt")
    assert_refused(
        harness("plan", CONFIG, f"task.data_dir={data(header='id,text,label')}"), "has the columns", "expected"
    )
    folder = data(test=[("7", "좋다", 5)])
    assert_refused(harness("plan", CONFIG, f"task.data_dir={folder}"), "line 2: label '5', expected 0 or 1")


def test_template_mistakes_are_refused(harness, tmp_path):
    assert_refused(harness("plan", CONFIG, "grid.templates=[lecture_3]"), "no template 'lecture_3'", "lecture_")
    own = tmp_path / "own.yaml"
    own.write_text("merging:\n  query: '{document} 감정: 긍'\n  labels: ['정', '부']\n", encoding="utf-8")
    result = harness("plan", CONFIG, f"task.templates_file={own}", "grid.templates=[merging]")
    assert_refused(result, "template 'merging'", "merges with the end of its context", "tokens")


def test_more_demonstrations_than_the_pool_has_are_refused(harness, data):
    assert_refused(
        harness("plan", CONFIG, f"task.data_dir={data()}", "grid.k=[11]"), "grid.k asks for 11", "pool has 10"
    )


def test_a_prompt_longer_than_the_context_is_refused_naming_the_k_that_fits(harness):
    result = harness("plan", CONFIG, "grid.templates=[lecture_1]", "grid.k=[0,400]")
    assert_refused(result, "K=400", "context of 2048", "would fit")


def test_broken_model_folders_are_refused(harness, tmp_path):
    assert_refused(harness("plan", CONFIG, f"model.path={tmp_path}/none"), "no model folder")
    copy = tmp_path / "model"
    shutil.copytree(MODEL, copy)
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    assert_refused(harness("plan", CONFIG, f"model.path={copy}"), "has no tokenizer")
    (copy / "model.safetensors").unlink()
    assert_refused(harness("plan", CONFIG, f"model.path={copy}"), "no *.safetensors weights")


def test_weights_that_do_not_load_are_refused(harness, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(MODEL, copy)
    (copy / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json at all!")
    assert_refused(harness(*inline(tmp_path, f"model.path={copy}", "task.limit=4")), str(copy))


def test_an_unwritable_out_is_refused_before_any_work(harness, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert_refused(harness("run", CONFIG, "cluster.address=inline", f"out={blocked}"), "cannot be written", "set out=")


def test_show_of_a_folder_that_is_no_run_is_refused(harness, tmp_path):
    assert_refused(harness("show", str(tmp_path)), "not a run directory")


def test_a_cluster_that_is_not_there_is_refused(harness, tmp_path, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests share one Ray
    result = harness("run", CONFIG, f"out={tmp_path}", "cluster.address=nowhere")
    assert_refused(result, "cluster.address='nowhere'")


def test_control_characters_of_data_do_not_steer_the_terminal():
    text = "가\x1b[31m나\r\u009b\u00a0다\n\t\u202e\ud800"
    assert visible(text, keep="\n\t") == "가\\u001b[31m나\\u000d\\u009b\u00a0다\n\t\\u202e\\ud800"


def test_both_readmes_show_the_same_table():
    english, korean = (
        (REPO / name).read_text(encoding="utf-8").split("<!-- demo-output -->")[1].split("<!-- /demo-output -->")[0]
        for name in ("README.md", "README.ko.md")
    )
    assert english == korean


def test_the_demo_prints_the_table_in_the_readme(harness, tmp_path):
    status, out, _ = harness("run", CONFIG, f"out={tmp_path}", "cluster.address=inline")
    readme = Path("README.md").read_text(encoding="utf-8")
    expected = readme.split("<!-- demo-output -->")[1].split("```")[1].replace("data_out/demo", f"{tmp_path}/demo")
    assert status == 0
    assert [line.rstrip() for line in out.strip().splitlines()] == expected.strip().splitlines()


def ended(arguments: list[str], out: int) -> tuple[int, str]:
    """Exit status and standard error of a child of this process with its output there."""
    done = subprocess.run([sys.executable, "-m", "harness", *arguments], stdout=out, stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize("verb", ["show", "show --format csv", "status", "prompts"])
def test_a_reader_that_has_seen_enough_ends_a_verb_as_sigpipe_would(verb, tmp_path):
    name, *more = verb.split()
    read, write = os.pipe()
    os.close(read)
    try:
        status, err = ended([name, subject(name, tmp_path), *more], write)
    finally:
        os.close(write)
    assert (status, "Traceback" in err, "error" in err, "Exception" in err) == (141, False, False, False), err


@pytest.mark.parametrize("verb", ["show", "prompts"])
def test_a_full_disk_under_the_output_ends_in_one_line(verb, tmp_path):
    with open("/dev/full", "w") as full:
        status, err = ended([verb, subject(verb, tmp_path)], full.fileno())
    errors = [line for line in err.splitlines() if "rror" in line]
    assert status == 2 and "Traceback" not in err, err
    assert len(errors) == 1 and "No space left on device; free space" in errors[0] and str(tmp_path) not in errors[0]


def subject(verb: str, folder: Path) -> str:
    if verb == "prompts":
        return CONFIG
    return str(classified_run(folder / "run", ["가", "나"], {("plain", 0): 0.6}, seeds=(1,)))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("demos.max_tokens=12", "of the pool is too long for demos.max_tokens: demonstrations are the short"),
        ("model.max_length=60", "tokens, more than half of the context"),
    ],
)
def test_a_plan_says_what_may_surprise(harness, override, words):
    small = ("grid.templates=[lecture_1]", "grid.k=[0,1]", "grid.seeds=[1]", "task.limit=20")
    assert words in harness("plan", CONFIG, *small, override)[1]
    assert words not in harness("plan", CONFIG, *small)[1]
