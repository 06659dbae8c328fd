"""Anything at all in run directories: what can be shown, or one line; nothing is executed, written or opened."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import REPO
from tests.fuzz.inputs import changed, damaged, place, share
from tests.simulated_runs import classified_run
from tests.told import call


def copied(run_dir):
    """A copy under the same name each time, so that messages can be compared."""
    target = place("run")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(run_dir, target)
    return target


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = classified_run(tmp_path_factory.mktemp("runs") / "run", ["가", "나", "다"], {("plain", 0): 0.6}, seeds=(1,))
    Path(path, "prompts.json").write_text('{"format": 1, "prompts": []}')
    return Path(path)


NAMES = ["manifest.json", "prompts.json", "samples.parquet", "part"]
VERBS = ["show"] * 4 + ["status"] * 4 + ["calibrate", "compare", "export", "report"]


def damage(data, folder):
    """Change one file of a run directory, as the drawn data says."""
    name = data.draw(st.sampled_from(NAMES))
    path = min((folder / "parts").iterdir()) if name == "part" else folder / name
    if path.suffix == ".json" and data.draw(st.integers(0, 3)):
        path.write_text(json.dumps(data.draw(changed(json.loads(path.read_text())))))
    else:
        path.write_bytes(data.draw(damaged(path.read_bytes())))


@share("run directories")
@given(data=st.data())
def test_run_directories(run_dir, data):
    folder = copied(run_dir)
    damage(data, folder)
    told = call(data.draw(st.sampled_from(VERBS)), folder)
    assert told.status in (0, 2), told.err
    errors = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == (told.status == 2) and "Traceback" not in told.err, told.err
    assert "\x1b" not in told.out + told.err


FORBIDDEN = (
    "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "socket.bind", "os.remove",
    "os.rename", "os.mkdir", "shutil.",
)  # fmt: skip


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@pytest.mark.slow
def test_reading_a_hostile_run_directory_executes_writes_and_opens_nothing(run_dir):
    """10,000 rounds; every file that is opened is the run's own or of what is installed."""
    installed = (sys.prefix, sys.base_prefix, str(REPO), "/proc/")
    watching: list[Path] = []
    seen: list[str] = []

    def hook(event, given):
        if not watching:
            return
        if event.startswith(FORBIDDEN):
            seen.append(f"{event} {given}")
        elif event == "open" and isinstance(given[0], str):
            path, mode, flags = given[0], given[1] or "r", given[2] or 0
            known = path.startswith((str(watching[0]), *installed)) or path in sys.path
            writes = set(str(mode)) & set("wax+") or flags & WRITING
            if writes or (os.path.exists(path) and not known):
                seen.append(f"open {path} {mode} {flags:#o}")

    sys.addaudithook(hook)

    @settings(max_examples=10_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def rounds(data):
        folder = copied(run_dir)
        damage(data, folder)
        watching.append(folder)
        try:
            call(data.draw(st.sampled_from(["show", "status", "compare"])), folder)
        finally:
            watching.clear()
        assert not seen, seen

    call("show", copied(run_dir))  # modules that are imported late
    rounds()
