"""W&B: what is logged, offline and to a server, and what happens when the server fails."""

import html
import itertools
import json
import logging
import math
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import vl_convert

from harness.config.schema import WandbConfig
from harness.reporting.tracking.layout import specification as preset
from harness.reporting.tracking.process import log_files
from harness.reporting.tracking.process_tracker import Bounds
from harness.reporting.tracking.run import tell_results
from harness.reporting.tracking.tables import (
    SAMPLE_ROWS,
    TABLE_ROWS,
    cells_message,
    charts_message,
    table_message,
    thinned,
)
from harness.reporting.tracking.tracker import open_tracker
from harness.results.store import RunStore
from tests.fake_wandb_server import FakeWandb, serving

KEY = "0123456789abcdef0123456789abcdef01234567"
QUICK = Bounds(connect_s=15.0, unreached_s=5.0, upload_s=30.0, grace_s=10.0)
TEMPLATES, KS, SEEDS = ("lecture_1", "good & bad"), (0, 4), (1, 2)
CONFIG = {
    "name": "demo",
    "out": "data_out",
    "grid": {"k": [0, 4], "templates": list(TEMPLATES)},
    "task": {"limit": None},
}


def cell_rows():
    """Eight cells with known figures; the best is good & bad, K=4, seed 1; one failed altogether."""
    rows = []
    for t, template in enumerate(TEMPLATES):
        for k in KS:
            for seed in SEEDS:
                value = 0.5 + 0.1 * t + 0.03 * k - 0.01 * seed
                rows.append({
                    "model": "m/one", "task": "nsmc", "template": template, "k": k, "seed": seed, "n_attempted": 100,
                    "n_scored": 100, "n_failed": 0, "accuracy": value, "low": value - 0.1, "high": value + 0.1,
                    "macro_f1": value - 0.02, "off_label_mass": 0.001,
                })  # fmt: skip
    rows[0] |= {"n_scored": 0, "n_failed": 100, "accuracy": math.nan, "low": math.nan, "high": math.nan,
                "macro_f1": math.nan, "off_label_mass": math.nan}  # fmt: skip
    return rows


ROWS = cell_rows()
CELLS = pd.DataFrame(ROWS)
PAIRS = pd.DataFrame({"first": ["a", "b"], "difference": [0.25, math.nan], "more": pd.array([3, None], dtype="Int64")})
RECORDS = pd.DataFrame({
    "sample_id": [str(i) for i in range(SAMPLE_ROWS * 2 + 500)],
    "gold": [i % 2 for i in range(SAMPLE_ROWS * 2 + 500)],
    "label_logprobs": [[-0.5, -1.0]] * (SAMPLE_ROWS * 2 + 500),
})  # fmt: skip


EXPECTED = {"best/accuracy": 0.625, "best/low": math.nan}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A home without credentials, the dummy key, and nothing of the tester's own W&B settings."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield patch


def make_run_dir(folder):
    """A run directory with two parts."""
    (folder / "parts").mkdir(parents=True)
    files = {"manifest.json": b'{"status": "complete"}', "cells.parquet": b"cells", "parts/u1.parquet": b"one" * 50,
             "parts/u2.parquet": b"two" * 70}  # fmt: skip
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files


class LogLines(logging.Handler):
    """What the tracker says while the context is open, as (level, text)."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []
        self.logger = logging.getLogger("harness.reporting.tracking.process_tracker")

    def __enter__(self):
        self.logger.addHandler(self)
        self.before, self.logger.level = self.logger.level, logging.DEBUG
        return self

    def __exit__(self, *_):
        self.logger.removeHandler(self)
        self.logger.level = self.before

    def emit(self, record):
        self.lines.append((record.levelno, record.getMessage()))

    def at(self, level, about=""):
        return [text for found, text in self.lines if found == level and str(about) in text]


def wait_until(condition, most_s=30.0):
    deadline = time.monotonic() + most_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def session(run_dir, mode="offline", rows=ROWS, cells_before=0, bounds=QUICK, opened=None, wait_for=None, **wandb):
    """One session of a driver: rows, then results; with the log and the seconds it cost.

    `opened` is called once the tracker has been opened; the run lasts until `wait_for` is true.
    """
    settings = WandbConfig(mode=mode, **wandb)
    with LogLines() as lines:
        begin = time.monotonic()
        with open_tracker(settings, "grid/0001", CONFIG, str(run_dir), cells_before, bounds) as tracker:
            if opened:
                opened()
            for row in rows:
                tracker.cell_finished(row)
            for done in range(1, 101):
                tracker.progress(done, 100, 120.5, 4000.25, gpu_memory_bytes=2**30)
            tracker.finish(CELLS, pairs=lambda: PAIRS, records=lambda: RECORDS, summary=EXPECTED)
            calls_s = time.monotonic() - begin
            if wait_for:
                wait_until(wait_for)
            begin = time.monotonic()
    return SimpleNamespace(log=lines, calls_s=calls_s, end_s=time.monotonic() - begin)


def log_folder(run_dir):
    """The folder of the only W&B log in a run directory."""
    (folder,) = (run_dir / "wandb").glob("offline-run-*")
    return folder


def read_log(folder):
    """The records of a W&B log file: a 7-byte header, then records in blocks of 32 KiB.

    A record has a 4-byte checksum, a 2-byte length, a 1-byte type (whole, first, middle, last)
    and that many bytes of a protobuf message.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("*.wandb")
    data, place, piece, records = path.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        piece += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            records.append(Record.FromString(piece))
            piece = b""
    assert piece == b""
    return records


def merged(changes):
    """A nested dictionary from the items of some records, later ones winning."""
    values = {}
    for items in changes:
        for item in items:
            *path, last = list(item.nested_key) or [item.key]
            target = values
            for name in path:
                target = target.setdefault(name, {})
            target[last] = json.loads(item.value_json)
    return values


def logged_offline(run_dir):
    """What a W&B log says, in the form that `logged_online` has too."""
    folder = log_folder(run_dir)
    records = read_log(folder)
    of_kind = {kind: [r for r in records if r.WhichOneof("record_type") == kind] for kind in
               ("run", "config", "history", "summary", "artifact", "exit")}  # fmt: skip
    artifacts = {}
    for record in of_kind["artifact"]:
        contents = record.artifact.manifest.contents
        artifacts[record.artifact.name] = {entry.path: Path(entry.local_path).read_bytes() for entry in contents}
    paths = [path for path in folder.glob("files/**/*") if path.is_file()]
    (run,) = [record.run for record in of_kind["run"]]
    return SimpleNamespace(
        run_id=run.run_id, name=run.display_name, project=run.project, group=run.run_group, tags=list(run.tags),
        host=run.host, config=merged([run.config.update, *(r.config.update for r in of_kind["config"])]),
        history=[merged([r.history.item]) for r in of_kind["history"]],
        summary=merged(r.summary.update for r in of_kind["summary"]), artifacts=artifacts,
        files={path.relative_to(folder / "files").as_posix(): path.read_bytes() for path in paths},
        exit_code=of_kind["exit"][-1].exit.exit_code if of_kind["exit"] else None,
    )  # fmt: skip


def logged_online(server):
    """What a server was given."""
    ((run_id, run),) = server.runs.items()
    config = {name: entry["value"] for name, entry in json.loads(run["config"]).items()}
    artifacts = {}
    for number, asked in enumerate(server.artifacts, start=1):
        prefix = f"a{number}/"
        files = {n.removeprefix(prefix): d for n, d in server.artifact_files.items() if n.startswith(prefix)}
        artifacts[asked["artifactCollectionName"]] = files
    return SimpleNamespace(
        run_id=run_id, name=run["displayName"], project=run["project"], group=run.get("groupName"),
        tags=run.get("tags"), host=run.get("host"), config=config, history=server.history(run_id),
        summary=server.summary(run_id), artifacts=artifacts, files=server.files, exit_code=run["complete"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def offline(environment, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("offline")
    given = make_run_dir(run_dir)
    done = session(run_dir, group="g", tags=["x", "y"])
    return SimpleNamespace(run_dir=run_dir, given=given, logged=logged_offline(run_dir), **vars(done))


@pytest.fixture(scope="module")
def online(environment, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("online")
    given = make_run_dir(run_dir)
    with serving(FakeWandb()) as server:
        environment.setenv("WANDB_BASE_URL", server.url)
        done = session(run_dir, "online", group="g", tags=["x", "y"], wait_for=lambda: server.runs)
        return SimpleNamespace(
            run_dir=run_dir, given=given, server=server, logged=logged_online(server), **vars(done)
        )  # fmt: skip


@pytest.fixture(params=["offline", "online"])
def finished(request):
    return request.getfixturevalue(request.param)


def known(row):
    return {f"cell/{name}": value for name, value in row.items() if value == value}


def media(logged, kind, name):
    """The content of a table or chart that the history names."""
    (entry,) = [row[name] for row in logged.history if name in row]
    assert entry["_type"] == kind
    return logged.files[entry["path"]].decode()


def test_the_history_has_a_row_per_cell_with_all_its_figures(finished):
    rows = [row for row in finished.logged.history if "cell/index" in row]
    found = [{name: value for name, value in row.items() if name.startswith("cell/")} for row in rows]
    assert found == [{"cell/index": i, **known(row)} for i, row in enumerate(ROWS, start=1)]
    assert "cell/accuracy" not in found[0], "a cell without scored samples has no accuracy, not 0"


def test_progress_is_logged_now_and_then_and_at_the_last_unit(finished):
    rows = [row for row in finished.logged.history if "progress/units_done" in row]
    assert [row["progress/units_done"] for row in rows] == [1, 100]
    for row in rows:
        assert row["progress/prompts_per_s"] == 120.5
        assert row["progress/unique_tokens_per_s"] == 4000.25
        assert row["progress/gpu_memory_bytes"] == 2**30


def test_the_table_of_cells_holds_the_given_values(finished):
    table = json.loads(media(finished.logged, "table-file", "cells"))
    assert table["columns"] == list(CELLS)
    assert [dict(zip(table["columns"], row, strict=True)) for row in table["data"]] == [
        {name: value if value == value else None for name, value in row.items()} for row in ROWS
    ]


def test_paired_differences_are_a_table(finished):
    table = json.loads(media(finished.logged, "table-file", "paired_differences"))
    assert table["columns"] == ["first", "difference", "more"]
    assert table["data"] == [["a", 0.25, 3], ["b", None, None]]


def test_the_sample_table_is_capped_even_and_says_so(finished):
    table = json.loads(media(finished.logged, "table-file", "samples"))
    assert len(table["data"]) == SAMPLE_ROWS
    ids = [int(row[0]) for row in table["data"]]
    assert ids[0] == 0 and {b - a for a, b in itertools.pairwise(ids)} == {2, 3}
    assert table["data"][0][2] == "[-0.5, -1.0]"
    assert finished.logged.summary["samples/note"] == "1000 of 2500 records, evenly spaced"


STRATEGIES = {
    # mean over the seeds, lowest and highest bound of their intervals; one seed of the last has no figure
    ("lecture_1", 4): (0.605, 0.50, 0.71),
    ("good & bad", 0): (0.585, 0.48, 0.69),
    ("good & bad", 4): (0.705, 0.60, 0.81),
    ("lecture_1", 0): (0.48, 0.38, 0.58),
}


PRESETS = {"against_k": "wandb/lineseries/v0", "strategies": "wandb/bar/v0", "every_cell": "wandb/scatter/v0"}


def chart_rows(logged, chart):
    """The table behind a chart, as a dictionary per row."""
    table = json.loads(media(logged, "table-file", f"{chart}_table"))
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def strategy_figures(rows):
    return {(r["template"], r["k"]): (r["accuracy"], r["low"], r["high"]) for r in rows}


@pytest.mark.parametrize("chart", ["against_k", "strategies"])
def test_charts_show_each_strategy_with_the_bounds_over_its_seeds(finished, chart):
    rows = chart_rows(finished.logged, chart)
    assert strategy_figures(rows) == {strategy: pytest.approx(figures) for strategy, figures in STRATEGIES.items()}
    assert {row["template"]: row["n_seeds"] for row in rows if row["k"] == 0} == {"lecture_1": 1, "good & bad": 2}


def test_a_chart_shows_every_scored_cell(finished):
    columns = ["model", "template", "k", "seed", "accuracy", "low", "high", "n_scored"]
    given = [{name: row[name] for name in columns} for row in ROWS if row["accuracy"] == row["accuracy"]]
    assert chart_rows(finished.logged, "every_cell") == given


@pytest.mark.parametrize("chart", PRESETS)
def test_every_chart_is_a_preset_of_wandb_over_its_own_table(finished, chart):
    panel = finished.logged.config["_wandb"]["visualize"][chart]["panel_config"]
    assert panel["panelDefId"] == PRESETS[chart]
    assert set(panel["fieldSettings"].values()) <= set(chart_rows(finished.logged, chart)[0])
    assert f"{chart}_table" in json.dumps(panel["userQuery"])


def test_nothing_is_logged_as_a_page_that_nobody_can_edit(finished):
    assert not [name for name in finished.logged.files if name.endswith((".html", ".svg"))]


def test_the_summary_names_the_best_cell_and_what_to_expect_of_it(finished):
    summary = finished.logged.summary
    assert summary["best/template"] == "good & bad"
    assert (summary["best/k"], summary["best/seed"]) == (4, 1)
    as_scored = [summary[f"best/{n}_as_scored"] for n in ("accuracy", "low", "high")]
    assert as_scored == pytest.approx([0.71, 0.61, 0.81])
    assert summary["best/accuracy"] == 0.625
    assert "best/low" not in summary
    assert summary["cells/count"] == 8


def test_the_artifact_holds_parts_cells_and_manifest(finished):
    assert finished.logged.artifacts["grid-grid-0001"] == finished.given


def test_the_run_is_named_grouped_and_configured_as_given(finished):
    logged = finished.logged
    assert (logged.run_id, logged.name, logged.project) == ("grid-0001", "demo", "prompt-grid-harness")
    assert (logged.group, logged.tags) == ("g", ["x", "y"])
    assert {name: value for name, value in logged.config.items() if name != "_wandb"} == CONFIG
    assert logged.exit_code == 0


def test_axes_of_the_history_are_defined(finished):
    metrics = json.dumps(finished.logged.config["_wandb"].get("m", [])) + str(
        [r.metric for r in read_log(log_folder(finished.run_dir)) if r.WhichOneof("record_type") == "metric"]
    )
    assert "cell/*" in metrics and "progress/units_done" in metrics


def test_nothing_of_the_machine_or_the_code_is_logged(finished):
    assert not finished.logged.host
    kept = {name for name in finished.logged.files if not name.startswith("media/")}
    manifests_of_artifacts = {f"a{number}.json" for number in range(1, 8)}
    assert kept <= {"config.yaml", "wandb-summary.json"} | manifests_of_artifacts


def test_the_key_is_sent_in_a_header_and_stands_nowhere_else(finished):
    files = [path for path in finished.run_dir.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert not any(KEY in text for _, text in finished.log.lines)


def test_the_server_is_asked_with_the_key_of_the_environment(online):
    assert len(online.server.authorizations - {None}) == 1
    assert not any(KEY.encode() in body for body in online.server.bodies)


def test_an_offline_run_ends_with_the_command_that_uploads_it(offline):
    folder = log_folder(offline.run_dir)
    assert offline.log.at(logging.INFO) == [f"W&B log kept offline; to upload it: wandb sync {folder}"]
    assert offline.log.at(logging.WARNING) == []


def test_an_online_run_says_where_it_is(online):
    page = f"{online.server.url}/tester/prompt-grid-harness/runs/grid-0001"
    assert online.log.at(logging.INFO) == [f"W&B: {page}", f"W&B has everything: {page}"]
    assert online.log.at(logging.WARNING) == []


def test_cells_reach_the_server_while_the_run_goes_on(environment, tmp_path):
    with serving(FakeWandb()) as server:
        environment.setenv("WANDB_BASE_URL", server.url)
        with open_tracker(WandbConfig(mode="online"), "live", CONFIG, str(tmp_path), bounds=QUICK) as tracker:
            tracker.cell_finished(ROWS[1])
            wait_until(lambda: server.runs and server.summary("live").get("cell/index"))
            assert server.summary("live")["cell/accuracy"] == ROWS[1]["accuracy"]
            assert server.run("live")["complete"] is None
        assert len(server.history("live")) == 1


def test_a_resumed_grid_goes_on_in_the_same_run(environment, tmp_path):
    make_run_dir(tmp_path)
    with serving(FakeWandb()) as server:
        environment.setenv("WANDB_BASE_URL", server.url)
        session(tmp_path, "online", ROWS[:3])
        session(tmp_path, "online", ROWS[3:], cells_before=3)
        logged = logged_online(server)
    assert [row["cell/index"] for row in logged.history if "cell/index" in row] == list(range(1, 9))
    steps = [row["_step"] for row in logged.history]
    assert steps == sorted(set(steps))


FAULTS = {
    # what the warning names, and the seconds that the end may take
    "hang": ("no answer for 1 s", QUICK.unreached_s),
    "500": ("no answer", QUICK.unreached_s),
    "refuse": ("401", QUICK.upload_s),
    "late_403": ("Fatal error while uploading", QUICK.upload_s),
    "late_500": ("upload not done 4 s after the end", 4.0),
    "no_uploads": ("403", QUICK.upload_s),
    "no_key": ("No API key configured", QUICK.upload_s),
}


def reached(fault, server):
    """Whether a server has come so far as to fail."""
    if fault == "no_key":
        return True
    return bool(server.runs) if fault.startswith(("late", "no_uploads")) else bool(server.operations)


@pytest.fixture(scope="module")
def failures(environment, tmp_path_factory):
    """A session against a server of every fault; all at once, since most of it is waiting."""
    found, threads = {}, []
    with ExitStack() as stack:
        for fault in FAULTS:
            run_dir = tmp_path_factory.mktemp(fault)
            given = make_run_dir(run_dir)
            server = stack.enter_context(serving(FakeWandb(fault)))
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setenv("WANDB_BASE_URL", server.url)
            if fault == "no_key":
                patch.delenv("WANDB_API_KEY")
            opened = threading.Event()
            connect_s = 1.0 if fault == "hang" else QUICK.connect_s
            upload_s = 4.0 if fault == "late_500" else QUICK.upload_s
            options = {
                "bounds": Bounds(connect_s, QUICK.unreached_s, upload_s, QUICK.grace_s),
                "opened": opened.set,
                "wait_for": partial(reached, fault, server),
            }

            def run(fault=fault, run_dir=run_dir, given=given, options=options):
                done = session(run_dir, "online", **options)
                found[fault] = SimpleNamespace(run_dir=run_dir, given=given, **vars(done))

            threads.append(threading.Thread(target=run))
            threads[-1].start()
            assert opened.wait(30)
        for thread in threads:
            thread.join()
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_server_costs_no_figure(failures, fault):
    done = failures[fault]
    logged = logged_offline(done.run_dir)
    assert [row["cell/index"] for row in logged.history if "cell/index" in row] == list(range(1, 9))
    assert len(json.loads(media(logged, "table-file", "cells"))["data"]) == 8
    assert logged.artifacts["grid-grid-0001"] == done.given
    assert logged.summary["best/k"] == 4
    assert logged.exit_code == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_server_costs_a_bounded_wait_at_the_end_only(failures, fault):
    done = failures[fault]
    assert done.calls_s < 1.0
    assert done.end_s < FAULTS[fault][1] + QUICK.grace_s


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_server_is_told_once_and_then_how_to_upload(failures, fault):
    done = failures[fault]
    first, last = done.log.at(logging.WARNING, about=done.run_dir)
    folder = log_folder(done.run_dir)
    assert FAULTS[fault][0] in first and f"kept in {folder}" in first
    assert last == f"W&B does not have everything; to upload it: wandb sync {folder}"


@pytest.mark.parametrize("fault", ["refuse", "late_403"])
def test_the_printed_command_uploads_what_a_server_refused(environment, failures, fault):
    done = failures[fault]
    folder = done.log.at(logging.WARNING, about=done.run_dir)[-1].split("wandb sync ")[1]
    with serving(FakeWandb()) as server:
        environment.setenv("WANDB_BASE_URL", server.url)
        command = [sys.executable, "-m", "wandb", "sync", folder]
        subprocess.run(command, check=True, cwd=done.run_dir, capture_output=True, timeout=60)
        logged = logged_online(server)
    assert [row["cell/index"] for row in logged.history if "cell/index" in row] == list(range(1, 9))
    assert logged.artifacts["grid-grid-0001"] == done.given


def test_a_slow_server_is_not_waited_for_while_the_run_goes_on(environment, tmp_path):
    make_run_dir(tmp_path)
    with serving(FakeWandb(delay_s=0.15)) as server:
        environment.setenv("WANDB_BASE_URL", server.url)
        done = session(tmp_path, "online", wait_for=lambda: server.runs)
        assert done.calls_s < 1.0
        assert done.log.at(logging.WARNING) == []
        assert len(logged_online(server).history) == 14


def test_a_row_that_cannot_be_made_is_left_out_and_said_without_the_key(environment, tmp_path):
    def broken():
        raise OSError(f"cannot open it with {KEY}")

    make_run_dir(tmp_path)
    done = session(tmp_path, rows=[ROWS[1], broken, lambda: ROWS[2]])
    assert [r["cell/index"] for r in logged_offline(tmp_path).history if "cell/index" in r] == [1, 3]
    (warning,) = done.log.at(logging.WARNING)
    assert "figures left out: OSError: cannot open it with ***;" in warning


def test_a_killed_process_stops_nothing(environment, tmp_path):
    def logged():
        return any(b"lecture_1" in path.read_bytes() for path in tmp_path.glob("wandb/offline-run-*/*.wandb"))

    with LogLines() as lines:
        with open_tracker(WandbConfig(mode="offline"), "g", CONFIG, str(tmp_path), bounds=QUICK) as tracker:
            tracker.cell_finished(ROWS[1])
            wait_until(logged)
            os.kill(tracker._process.pid, signal.SIGKILL)
            tracker._process.wait(5)
            for _ in range(1000):
                tracker.cell_finished(ROWS[2])
            begin = time.monotonic()
        assert time.monotonic() - begin < 5
    assert "its process ended early" in lines.at(logging.WARNING)[0]
    assert logged(), "what was flushed is there"


def test_the_process_finds_the_source_tree_that_started_it(tmp_path, monkeypatch):
    paths = []

    def refuse(command, env, **_):
        paths.extend(env["PYTHONPATH"].split(os.pathsep))
        raise OSError("no more processes")

    monkeypatch.setattr("subprocess.Popen", refuse)
    with open_tracker(WandbConfig(mode="offline"), "g", CONFIG, str(tmp_path)):
        pass
    assert (Path(paths[0]) / "harness" / "reporting" / "tracking" / "process.py").is_file()


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, 130), (ValueError, 1)])
def test_a_run_that_is_stopped_or_fails_is_marked_so(environment, tmp_path, error, status):
    with (
        pytest.raises(error),
        open_tracker(WandbConfig(mode="offline"), "g", CONFIG, str(tmp_path), bounds=QUICK) as tracker,
    ):
        tracker.cell_finished(ROWS[1])
        raise error
    assert logged_offline(tmp_path).exit_code == status


def test_disabled_leaves_no_trace(tmp_path):
    done = session(tmp_path, "disabled")
    assert list(tmp_path.iterdir()) == []
    assert done.log.lines == []


def test_the_driver_loads_no_wandb_and_prints_nothing_of_it(environment, tmp_path):
    make_run_dir(tmp_path)
    code = (
        "import sys, pandas as pd\n"
        "from harness.config.schema import WandbConfig\n"
        "from harness.reporting.tracking.tracker import open_tracker\n"
        f"with open_tracker(WandbConfig(mode='offline'), 'g', {{}}, {str(tmp_path)!r}) as t:\n"
        "    t.cell_finished({'k': 1})\n"
        "print('wandb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert logged_offline(tmp_path).history[0]["cell/k"] == 1


def test_the_log_of_a_run_on_object_storage_is_kept_in_a_temporary_folder(environment, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with LogLines() as lines, open_tracker(WandbConfig(mode="offline"), "g", CONFIG, "mock:///bucket/run") as tracker:
        tracker.cell_finished(ROWS[1])
    (root,) = tmp_path.glob("harness-wandb-*")
    assert str(log_folder(root)) in lines.at(logging.INFO)[0]
    assert len(logged_offline(root).history) == 1


def test_files_on_object_storage_are_copied_into_the_artifact(environment, tmp_path, monkeypatch):
    class Remote(RunStore):
        def __init__(self, run_dir):
            super().__init__(run_dir)
            self.is_local = False

    given = make_run_dir(tmp_path)
    monkeypatch.setattr("harness.results.store.RunStore", Remote)
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    logged = []
    message = {"run_dir": str(tmp_path), "run_id": "g", "names": ["manifest.json", "cells.parquet", "parts"]}
    log_files(SimpleNamespace(log_artifact=logged.append), message)
    entries = logged[0].manifest.entries
    assert {name: Path(entry.local_path).read_bytes() for name, entry in entries.items()} == given


def test_a_table_that_is_cut_says_so():
    pairs = pd.DataFrame({"difference": [0.5] * (TABLE_ROWS + 1)})
    message = table_message("pairs", pairs)
    assert len(message["tables"]["pairs"]["rows"]) == TABLE_ROWS
    assert message["summary"] == {"pairs/note": "the first 10000 of 10001 rows"}
    assert table_message("pairs", pairs.head(TABLE_ROWS))["summary"] == {}


def test_a_chart_whose_table_is_cut_says_so():
    cells = pd.DataFrame([ROWS[1] | {"seed": seed} for seed in range(TABLE_ROWS + 1)])
    message = charts_message(cells)
    rows = {chart["name"]: len(chart["rows"]) for chart in message["charts"]}
    assert rows == {"against_k": 1, "strategies": 1, "every_cell": TABLE_ROWS}
    assert message["summary"] == {"every_cell/note": "the first 10000 of 10001 rows"}


def test_a_bound_that_is_unknown_is_empty_in_a_chart():
    message = charts_message(pd.DataFrame([ROWS[1] | {"low": math.nan}]))
    for chart in message["charts"]:
        assert chart["rows"][0][list(chart["columns"]).index("low")] is None


SPECIFICATIONS = {"against_k": "against_k", "heatmap": "strategies", "parallel_coordinates": "every_cell"}


def drawn(specification):
    """What a Vega specification of the guide draws of the chart that it stands in for, as its accessible texts."""
    (chart,) = [c for c in charts_message(CELLS)["charts"] if c["name"] == SPECIFICATIONS[specification]]
    names = {"field": chart["fields"], "string": chart["texts"]}
    text = json.dumps(preset(specification))
    spec = json.loads(re.sub(r"\$\{(field|string):(\w+)\}", lambda found: names[found[1]][found[2]], text))
    # W&B gives the rows of every selected run, with the run's name.
    spec["data"] = {"values": [dict(zip(chart["columns"], row, strict=True), name="demo") for row in chart["rows"]]}
    return html.unescape(vl_convert.vegalite_to_svg(spec))


@pytest.mark.parametrize("specification", ["against_k", "heatmap"])
def test_the_guides_specifications_draw_each_strategy_with_its_interval(specification):
    svg = drawn(specification)
    for (template, k), (value, low, high) in STRATEGIES.items():
        (mark, *_) = [
            m for m in re.findall(r'aria-label="(K: [^"]*)"', svg) if f"template: {template}" in m and f"K: {k};" in m
        ]
        shown = dict(fact.split(": ") for fact in mark.split("; "))
        assert [float(shown[n]) for n in ("accuracy", "low", "high")] == pytest.approx([value, low, high], abs=1e-4)


def test_the_guides_parallel_coordinates_have_a_line_per_cell():
    svg = drawn("parallel_coordinates")
    lines = set(re.findall(r"height: [\d.]+; accuracy: ([\d.]+); cell: (\d+)", svg))
    assert sorted(float(value) for value, _ in lines) == pytest.approx(
        sorted(r["accuracy"] for r in ROWS if r["accuracy"] == r["accuracy"])
    )
    assert {"m/one", "lecture_1", "good & bad", "K=0", "K=4", "seed 1", "seed 2", "0.4800", "0.7100"} <= set(
        re.findall(r"level: ([^;\"]+)", svg)
    )


def test_a_raced_grid_has_no_best_cell_for_its_cells_have_other_samples():
    raced = pd.DataFrame([{**row, "n_scored": row["n_scored"] + place} for place, row in enumerate(ROWS)])
    summary = cells_message(raced)["summary"]
    assert summary["cells/count"] == 8
    assert not [name for name in summary if name.startswith("best/")]
    told = {}
    tracker = SimpleNamespace(finish=lambda cells, **more: told.update(more))
    tell_results(tracker, SimpleNamespace(run_dir="none"), raced, lambda: {"race/winner": "a K=0"})
    assert told["summary"] == {"race/winner": "a K=0"}
    assert "pairs" not in told, "differences between means over other samples mean nothing"


def test_a_grid_in_which_nothing_was_scored_has_no_best_cell_and_empty_charts():
    nothing = pd.DataFrame([ROWS[0]])
    message = cells_message(nothing)
    assert message["summary"] == {"cells/count": 1}
    assert [chart["rows"] for chart in charts_message(nothing)["charts"]] == [[], [], []]


def test_grids_of_generated_answers_are_compared_by_their_first_metric():
    rows = [
        {"model": "m", "task": "t", "template": "a", "k": k, "seed": 1, "n_scored": 9, "n_failed": 0,
         "exact_match": value, "exact_match_low": value - 0.1, "exact_match_high": value + 0.1, "f1": 0.9 - value}
        for k, value in ((0, 0.25), (4, 0.5))
    ]  # fmt: skip
    cells = pd.DataFrame(rows)
    summary = cells_message(cells)["summary"]
    names = ("k", "exact_match_as_scored", "exact_match_low_as_scored")
    assert [summary[f"best/{name}"] for name in names] == [4, 0.5, 0.4]
    alone = cells_message(cells.head(1))["summary"]
    assert (alone["best/exact_match"], alone["best/exact_match_low"]) == (0.25, 0.15)
    for chart in charts_message(cells)["charts"]:
        shown = [dict(zip(chart["columns"], row, strict=True)) for row in chart["rows"]]
        assert "exact_match" in chart["fields"].values()
        assert [[row[n] for n in ("k", "exact_match", "low", "high")] for row in shown] == [
            [0, 0.25, 0.15, 0.35], [4, 0.5, 0.4, 0.6]
        ]  # fmt: skip


def test_thinning_keeps_short_frames_and_spreads_over_long_ones():
    assert thinned(RECORDS.head(7), 10)["sample_id"].tolist() == list("0123456")
    assert thinned(RECORDS.head(10), 4)["sample_id"].tolist() == ["0", "2", "5", "7"]
