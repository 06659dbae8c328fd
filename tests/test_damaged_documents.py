"""Damaged documents beside sound records: what they say is left out with a word, and all else is shown."""

import json
import os
import shutil
import stat
import sys
import threading
from pathlib import Path

import pytest

from harness.core.errors import RunDirError
from harness.results import files, manifest
from harness.results.store import RunStore
from harness.running.run_log import log_file
from tests.fuzz.test_run_directories import AUDIT, DOCUMENTS, completed
from tests.simulated_runs import answered_run, classified_run
from tests.test_damaged_runs import edit
from tests.told import call, refused


@pytest.fixture
def run_dir(tmp_path):
    shares = {("plain", 0): 0.6, ("plain", 2): 0.7}
    return completed(Path(classified_run(tmp_path / "run", list("가나다라마바"), shares, seeds=(1,))))


@pytest.fixture
def group(tmp_path, run_dir):
    folder = tmp_path / "group"
    folder.mkdir()
    for name in ("one", "two"):
        shutil.copytree(run_dir, folder / name)
    tasks = [{"label": f"{name}\x9b", "folder": name} for name in ("one", "two")]
    (folder / "group.json").write_text(json.dumps({"format": 1, "tasks": tasks}))
    return folder


@pytest.mark.parametrize(
    "change", [{"strategies": 5}, {"rounds": [{}]}, {"result": {"claim": 5}}, {"strategies": ["a"]}]
)
def test_a_report_goes_on_without_a_race_that_is_damaged(run_dir, change):
    race = {**DOCUMENTS["race.json"]["races"][0], **change}
    (run_dir / "race.json").write_text(json.dumps({"races": [race]}))
    told = call("report", run_dir)
    assert told.status == 0 and "its race is not shown" in told.err, told.err


def test_a_report_goes_on_without_an_audit_that_is_damaged(run_dir):
    edit(run_dir, lambda m: m.update(audit=AUDIT | {"templates": [{**AUDIT["templates"][0], "run": {"prompts": 1}}]}))
    told = call("report", run_dir)
    assert told.status == 0 and "run has no 'flips'; it is not shown" in told.err, told.err


def test_a_task_of_a_group_that_is_damaged_is_named_and_the_others_are_shown(group):
    edit(group / "one", lambda m: m["config"].update(grid=5))
    told = call("show", group)
    assert told.status == 0 and "left out: one\\u009b" in told.out, told.err
    told = call("status", group)
    assert told.status == 0 and "not begun" not in told.out
    (group / "one" / "manifest.json").write_text("{")
    told = call("status", group)
    assert told.status == 0 and "manifest.json' is damaged" in told.out.replace("\n", " "), told.out
    assert "\x9b" not in told.out + call("status", group, "--format", "json").out


def test_a_lock_that_is_a_pipe_keeps_nobody_waiting(run_dir):
    edit(run_dir, lambda m: m.update(status="running", sessions=[{**m["sessions"][0], "ended": None, "host": HOST}]))
    os.mkfifo(run_dir / "run.lock")
    for path in run_dir.rglob("*.*"):
        os.utime(path, (0, 0))
    assert call("status", run_dir).status == 0
    os.mkfifo(run_dir / "run.log")
    with pytest.raises(RunDirError, match=r"run.log' is a pipe"), log_file(RunStore(str(run_dir))):
        pass


HOST = os.uname().nodename


def test_an_export_follows_no_link_that_somebody_put_in_its_place(tmp_path):
    path = answered_run(tmp_path / "run", n=6)
    names = call("export", path).out.split()
    mine = tmp_path / "mine"
    mine.write_text("mine")
    target = Path(names[0])
    target.unlink()
    target.symlink_to(mine)
    assert call("export", path).status == 0
    assert mine.read_text() == "mine" and not target.is_symlink() and json.loads(target.read_text())


def test_a_document_of_more_bytes_than_any_has_is_not_read(run_dir, monkeypatch):
    monkeypatch.setattr(files, "MOST_BYTES", 2**20)
    with open(run_dir / "manifest.json", "ab") as file:
        file.truncate(2**40)
    refused(call("show", run_dir), "manifest.json' has 1,099,511,627,776 bytes, expected at most")


def test_a_command_with_names_that_are_no_text_is_kept_escaped(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["harness", "run", "\udcb0\x1b.yaml"])
    assert manifest.new_session()["command"] == "harness run \\udcb0\\u001b.yaml"


def test_a_report_is_written_to_a_device_or_pipe_and_takes_no_place_of_it(run_dir, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    read = []
    reader.start()
    assert call("report", run_dir, "--out", pipe).status == 0
    reader.join(10)
    assert read[0].startswith(b"<!DOCTYPE html>") and stat.S_ISFIFO(pipe.stat().st_mode)
    os.mkfifo(run_dir / "report.html")
    assert call("report", run_dir).status == 0, "what somebody put there keeps nobody waiting"
    assert (run_dir / "report.html").is_file()
