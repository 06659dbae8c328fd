"""What a run found stands beside its goals, and a page without a run on a GPU stays blank."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.engine import LOWEST
from tests.bare import bare_environment
from tests.conftest import REPO
from tests.gpu import __main__ as check
from tests.gpu.goals import GOALS
from tests.gpu.page import goals_table, render

PAGE = REPO / "docs" / "performance.md"
MACHINE = {"gpu": "H100", "python": "3.12.3", "packages": {"torch": "2.11.0"}, "commit": "abc", "date": "2026-01-02"}
GRID = {
    "prompts/s": 9000.0,
    "of the limit": 0.5,
    "computed/unique": 1.01,
    "stages, s": {"scoring": 1.0},
    "peak, GB": 4.0,
}
STEPS = {
    "lecture 1.3b": {"state": "ok", "seconds": 9, "found": {"chosen": "cascade", "cascade": GRID, "flex": "no triton"}},
    "memory": {"state": "ok", "seconds": 9, "found": {"packs of 4096": {"off": -0.2}, "packs of 16384": {"off": 0.1}}},
    "decoding": {
        "state": "died",
        "reason": "exit status 3",
        "seconds": 9,
        "found": {"this project": {"new tokens/s": 100.0}, "loop": {"new tokens/s": 10.0}},
    },
}  # fmt: skip


def row(table, name):
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return line.split("|")[-2].strip()


def test_goals_are_read_from_what_was_found():
    table = goals_table(STEPS)
    assert row(table, "GPT-NeoX 1.3B, prompts/s") == "9,000"
    assert row(table, "its share of the unique-token limit") == "50% (missed)"
    assert row(table, "memory's peak against the prediction") == "20% (missed)"
    assert row(table, "decoding against the loop") == "10.0 x"
    assert row(table, "8B Llama shape, prompts/s") == "", "a step that did not run has no figure"


def test_without_a_gpu_no_figure_is_shown():
    on_a_cpu = {"machine": {**MACHINE, "gpu": None}, "steps": STEPS}
    assert render(on_a_cpu) == render(None)
    assert all(row(render(None), goal.name) == "" for goal in GOALS)


def test_with_a_gpu_device_versions_date_and_every_step_are_shown():
    text = render({"machine": MACHINE, "steps": STEPS})
    assert text.startswith("H100; Python 3.12.3, torch 2.11.0; commit abc; 2026-01-02.")
    assert "| 1.3B | cascade (chosen) | 9,000 | 50% | 1.010 | scoring 1.00 | 4.0 |" in text
    assert "| 1.3B | flex | no triton |" in text
    assert "| decoding | died: exit status 3 | 9 |" in text


def test_the_committed_page_is_what_a_run_would_write_between_its_markers():
    text = PAGE.read_text(encoding="utf-8")
    begin, end = (f"<!-- {slash}{check.MARKER} -->" for slash in ("", "/"))
    assert text.count(begin) == text.count(end) == 1
    between = text[text.index(begin) + len(begin) : text.index(end)].strip()
    assert between == render(None) or between.splitlines()[0].startswith("NVIDIA")


@pytest.mark.parametrize("name", LOWEST)
def test_an_older_version_ends_in_one_line(monkeypatch, name):
    version = check._version
    monkeypatch.setattr(check, "_version", lambda asked: "1.0.0" if asked == name else version(asked))
    with pytest.raises(SystemExit) as stopped:
        check.main([])
    assert stopped.value.code == f"{name} 1.0.0: the engine needs {LOWEST[name]} or newer"


@pytest.mark.parametrize("name", ["tenacity", "pydantic", "pytest"])
def test_a_package_that_is_missing_is_told_before_anything_starts(monkeypatch, name):
    version = check._version
    monkeypatch.setattr(check, "_version", lambda asked: None if asked == name else version(asked))
    with pytest.raises(SystemExit) as stopped:
        check.main([])
    assert stopped.value.code.startswith(f"{name} not installed: gpu-check needs torch, ")


def test_a_step_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        check.main(["--steps", "memory,speed"])
    assert stopped.value.code == 2
    assert "'speed' is none of tests, parity gpt_neox" in capsys.readouterr().err


def test_the_command_measures_tiny_sizes_on_a_bare_machine_without_a_gpu(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- gpu check -->\n<!-- /gpu check -->\n", encoding="utf-8")
    command = [sys.executable, "-m", "tests.gpu", "--steps", "memory,decoding", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--write", "--page", str(page)], cwd=REPO, capture_output=True, text=True,
        env=bare_environment(CUDA_VISIBLE_DEVICES=""), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "neox.log").read_text()
    steps = json.loads((tmp_path / "results.json").read_text())["steps"]
    assert {name: entry["state"] for name, entry in steps.items()} == {
        "memory": "skipped", "decoding": "ok",
    }  # fmt: skip
    found = steps["decoding"]["found"]
    same = [entry["same answers"] for name, entry in found.items() if name not in ("questions", "this project")]
    assert same == [3, 3, 3], found
    assert render(None) in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("number", "status"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_run_that_is_stopped_leaves_no_process(tmp_path, number, status):
    command = [sys.executable, "-m", "tests.gpu", "--steps", "device", "--out", str(tmp_path)]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, env=bare_environment())
    while not (tmp_path / "neox.events").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) == status
    commands = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if os.access(file, os.R_OK)]
    assert not any(str(tmp_path).encode() in words for words in commands)
