"""Anything at all in run directories: what can be shown, or one line; nothing is executed, written or opened."""

import json
import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.reporting.tracking import layout
from tests.conftest import REPO
from tests.fuzz.inputs import changed, damaged, place, share
from tests.simulated_runs import MODEL, answered_run, classified_run
from tests.told import call


def copied(run_dir):
    """A copy under the same name each time, so that messages can be compared."""
    target = place("run")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(run_dir, target)
    return target


RACE = {
    "races": [
        {
            "key": "k",
            "settings": {"epsilon": 0.01},
            "strategies": ["plain K=0", "plain K=2"],
            "n_samples": 6,
            "n_steps": 6,
            "n_held_out": 2,
            "rounds": [
                {"step": 3, "candidate": 0, "leader": 0, "dropped": [], "resting": [], "epsilon": None},
                {"step": 6, "candidate": 0, "leader": 0, "dropped": [1], "resting": [], "epsilon": 0.02},
            ],
            "result": {
                "ending": "single", "winner": "plain K=0", "baseline": None, "claim": "plain K=0 is best",
                "held_out": {"winner": {"value": 0.5, "low": 0.4, "high": 0.6, "method": "t", "n": 2},
                             "baseline": None, "difference": None},
                "spent": {"records": 9, "records_of_grid": 12, "tokens": 1.0, "tokens_of_grid": 2.0}, "scored": [6, 3],
            },
        }
    ]
}  # fmt: skip
PROMPT = {"model": MODEL, "template": "plain", "k": 0, "seed": 1, "sample_id": "s00000", "text": "가", "n_tokens": 3,
          "label_tokens": [["a"], ["b"]]}  # fmt: skip
AROUND = {
    "model": MODEL,
    "template": "plain",
    "seed": 1,
    "before": "a",
    "after": "b",
    "query": "q",
    "lengths": {"0": 3},
}
DOCUMENTS = {
    "race.json": RACE,
    "prompts.json": {"format": 1, "prompts": [PROMPT], "around": [AROUND], "own": {MODEL: {"1": {"s00000": 0}}}},
    "quarantine.json": {
        "format": 1,
        "units": ["u"],
        "samples": {"s00001": [{"unit": "u", "process": "h 1", "ending": "died", "cause": "c"}]},
    },
}
AGREEMENT = {"prompts": 2, "flips": 0, "near_ties": 1, "largest": 1e-6, "mean": 1e-7}
AUDIT = {"method": "likelihood", "n_samples": 2, "is_well": True} | {
    "templates": [{"template": "plain", "packing_adds": False, "run": AGREEMENT, "alone": AGREEMENT}]
}


def completed(path):
    """A run directory with every document that one may have."""
    for name, document in DOCUMENTS.items():
        (path / name).write_text(json.dumps(document))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest |= {"audit": AUDIT, "references": [], "tracking_id": "t", "n_units": 2, "n_records": 12}
    manifest["config"]["wandb"] = {"mode": "offline", "project": "p"}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


@pytest.fixture(scope="module", autouse=True)
def nothing_goes_to_wandb():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("wandb_workspaces", "wandb_workspaces.reports", "wandb_workspaces.reports.v2"):
            patch.setitem(sys.modules, name, mock.Mock())
        patch.setattr(layout, "_save", lambda runs, drawn: "https://wandb/report")
        yield


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    shares = {("plain", 0): 0.6, ("plain", 2): 0.7}
    path = classified_run(tmp_path_factory.mktemp("runs") / "run", list("가나다라마바"), shares, seeds=(1,))
    return completed(Path(path))


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    return completed(Path(answered_run(tmp_path_factory.mktemp("runs") / "run", n=6)))


@pytest.fixture(scope="module")
def group(tmp_path_factory, run_dir):
    """A group of two tasks."""
    folder = tmp_path_factory.mktemp("runs") / "group"
    folder.mkdir()
    for name in ("one", "two"):
        shutil.copytree(run_dir, folder / name)
    tasks = [{"label": name, "folder": name} for name in ("one", "two")]
    (folder / "group.json").write_text(json.dumps({"format": 1, "tasks": tasks}))
    return folder


NAMES = ["manifest.json", *DOCUMENTS, "samples.parquet", "part"]
SHOWN = [["show", "RUN"], ["show", "RUN", "--format", "json"], ["show", "RUN", "--format", "csv"], ["status", "RUN"]]
VERBS = [
    *SHOWN * 2,
    ["status", "RUN", "--format", "json"],
    ["compare", "RUN", "--by", "template,k", "--all"],
    ["compare", "RUN", "SOUND", "--format", "md"],
    ["calibrate", "RUN", "--all"],
    ["export", "RUN", "--to", "OUT"],
    ["report", "RUN"],
    ["report", "RUN", "SOUND", "--out", "OUT.html"],
    ["wandb", "RUN"],
]
GROUP_VERBS = [*SHOWN, ["status", "RUN", "--format", "json"], ["compare", "RUN"], ["report", "RUN"]]


def damage(data, folder, names=NAMES):
    """Change one file of a run directory, as the drawn data says."""
    name = data.draw(st.sampled_from(names))
    path = min((folder / "parts").iterdir()) if name == "part" else folder / name
    if path.suffix == ".json" and data.draw(st.integers(0, 3)):
        path.write_text(json.dumps(data.draw(changed(json.loads(path.read_text())))))
    else:
        path.write_bytes(data.draw(damaged(path.read_bytes())))


def told_of(verb, folder, sound):
    """Call a verb on a damaged folder, and hold what it says against what it may say."""
    places = {"RUN": folder, "SOUND": sound, "OUT": place("out"), "OUT.html": place("out.html")}
    told = call(*(places.get(word, word) for word in verb))
    assert told.status in (0, 2), told.err
    errors = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == (told.status == 2) and "Traceback" not in told.err, told.err
    assert "a fault of this program" not in told.err, told.err
    assert not {"\x1b", "\x9b", "\u202e", "\0"} & set(told.out + told.err)
    return told


@pytest.mark.parametrize("verb", VERBS[len(SHOWN) :], ids=" ".join)
def test_sound_directories_are_read(run_dir, answered, verb):
    sound = run_dir if verb[0] in ("calibrate", "compare") else answered
    told = told_of(verb, copied(sound), sound)
    assert (told.status, "damaged" in told.err) == (0, False), told.err


@share("run directories")
@given(data=st.data())
def test_run_directories(run_dir, answered, data):
    sound = data.draw(st.sampled_from([run_dir, answered]))
    folder = copied(sound)
    damage(data, folder)
    told_of(data.draw(st.sampled_from(VERBS)), folder, sound)


@share("groups of runs")
@given(data=st.data())
def test_groups_of_runs(group, data):
    folder = copied(group)
    if data.draw(st.booleans()):
        damage(data, folder, ["group.json"])
    else:
        damage(data, folder / "one")
    told_of(data.draw(st.sampled_from(GROUP_VERBS)), folder, group)


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
