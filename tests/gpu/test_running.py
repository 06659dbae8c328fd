"""A step that hangs, dies or breaks the device costs only itself, and what was found stays."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import REPO
from tests.gpu.plan import GROUPS, LIMIT_S, TESTS_SHARE, Group, Step, step_names
from tests.gpu.results import DIED, FAILED, NO_TIME, OK, SKIPPED, TOO_LONG, WRONG, Results
from tests.gpu.running import Runner, read_outcomes


def steps(*names, seconds=60):
    return tuple(Step(f"{place} {name}", seconds, f"tests.gpu.misbehaving:{name}") for place, name in enumerate(names))


def run(folder, group, seconds=120):
    results = Results(folder / "results.json", {"gpu": None})
    Runner(results, folder, time.monotonic() + seconds).run_group(group, [step.name for step in group.steps])
    assert json.loads((folder / "results.json").read_text()) == results.found
    return results


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    names = ("fails", "works", "is_wrong", "is_skipped", "dies", "works", "breaks_the_device", "works")
    hanging = Step("8 hangs", 1, "tests.gpu.misbehaving:hangs")
    group = Group("mixed", (*steps(*names), hanging, *steps("works")))
    return run(tmp_path_factory.mktemp("mixed"), group)


def test_every_step_ends_in_its_own_way(mixed):
    states = [entry["state"] for entry in mixed.steps.values()]
    assert states == [FAILED, OK, WRONG, SKIPPED, DIED, OK, FAILED, OK, TOO_LONG, OK]
    assert [name for name, entry in mixed.steps.items() if entry["state"] not in (OK, SKIPPED)] == mixed.failures


def test_reasons_are_one_line_each(mixed):
    reasons = {name: entry["reason"] for name, entry in mixed.steps.items()}
    assert reasons["0 fails"] == "RuntimeError: no idea"
    assert reasons["2 is_wrong"] == "2 is not 1"
    assert reasons["3 is_skipped"] == "no GPU"
    assert reasons["4 dies"] == "exit status 3; see mixed.log"
    assert reasons["8 hangs"] == "over 1 s"


def test_what_a_step_found_before_it_ended_stays(mixed):
    figures = [mixed.steps[name]["found"]["figure"] for name in ("1 works", "4 dies", "8 hangs")]
    assert figures == [1.5, 3.5, 2.5]


def test_a_new_process_begins_behind_a_death_and_a_broken_device_only(mixed):
    processes = [entry["found"].get("process") for name, entry in mixed.steps.items() if "works" in name]
    assert len(set(processes)) == 4


def test_no_step_begins_without_time(tmp_path):
    results = run(tmp_path, Group("late", steps("works", "fails")), seconds=2)
    assert [entry["state"] for entry in results.steps.values()] == [NO_TIME, NO_TIME]


def test_a_step_whose_package_is_absent_is_skipped_without_a_process(tmp_path):
    results = run(tmp_path, Group("other", (Step("engine", 60, "tests.gpu.misbehaving:works", "no_such_engine"),)))
    assert results.steps["engine"]["state"] == SKIPPED
    assert results.steps["engine"]["reason"] == "no_such_engine is not installed"
    assert not (tmp_path / "other.log").exists()


def test_a_module_that_cannot_be_imported_fails_its_own_step(tmp_path):
    group = Group("absent", (Step("gone", 60, "tests.gpu.absent:step"), *steps("works")))
    results = run(tmp_path, group)
    assert [entry["state"] for entry in results.steps.values()] == [FAILED, OK]


def test_a_whole_run_fits_eight_minutes_with_the_most_valuable_first():
    assert LIMIT_S <= 475, "the last process ends within seconds"
    assert step_names()[0] == "tests"
    firsts = [name for name in step_names() if name.startswith(("parity", "lecture 1.3b", "decoding", "contenders"))]
    assert firsts == ["parity gpt_neox", "parity llama", "lecture 1.3b", "decoding", "contenders"]
    neox = next(group for group in GROUPS if group.name == "neox")
    until_decoding = [step.seconds for step in neox.steps[: 1 + [s.name for s in neox.steps].index("decoding")]]
    right = sum(step.seconds for step in GROUPS[0].steps)
    assert max(TESTS_SHARE * LIMIT_S, right) + sum(until_decoding) < LIMIT_S, (
        "these come to their turn however long each takes"
    )


CUT_OFF = """
import time, pytest
pytestmark = pytest.mark.gpu
def test_passes(): pass
def test_fails(): assert "one" == "another", "a reason"
@pytest.mark.parametrize("kernel", ["a b"])
def test_is_skipped(kernel): pytest.skip("no GPU")
@pytest.fixture
def broken(): raise RuntimeError("no device")
def test_has_no_device(broken): pass
def test_hangs(): time.sleep(600)
"""


@pytest.mark.parametrize("processes", [(), ("-n", "2", "--maxschedchunk", "1")])
def test_a_run_of_tests_that_is_cut_off_tells_each_that_ended_and_why_it_failed(tmp_path, processes):
    file, log = tmp_path / "test_cut_off.py", tmp_path / "pytest.txt"
    file.write_text(CUT_OFF)
    command = [sys.executable, "-m", "pytest", "-p", "tests.gpu.conftest", "-m", "gpu", "-v", *processes, str(file)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTEST_ADDOPTS": ""}
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=REPO, env=environment, stdout=output, start_new_session=True)
        deadline = time.monotonic() + 60
        while sum(map(len, read_outcomes(log.read_text().splitlines()).values())) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    words = log.read_text()
    found = {kind: [name.split("::")[1] for name in names] for kind, names in read_outcomes(words.splitlines()).items()}
    assert {kind: sorted(names) for kind, names in found.items()} == {
        "passed": ["test_passes"], "failed": ["test_fails", "test_has_no_device"], "skipped": ["test_is_skipped[a b]"],
    }, words  # fmt: skip
    assert "test_fails failed in call:" in words
    assert "a reason" in words
    assert "test_has_no_device failed in setup:" in words
