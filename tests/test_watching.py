"""The status of a run, read from its directory: what is said, what it costs, what is not disturbed."""

from __future__ import annotations

import io
import json
import logging
import os
import platform
import random
from datetime import UTC, datetime

import pytest
from pyarrow import fs
from rich.console import Console

from harness import run
from harness.core.errors import RunDirError
from harness.reporting.status import write_status
from harness.results.lock import RunLock
from harness.results.schema import Record, to_table
from harness.results.status import MOST_FOOTERS, State, read_status, status_of
from harness.results.store import RunStore

START = 1_800_000_000.0
"""When the session of a made run begins, seconds since the epoch."""


def stamp(seconds):
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


class MadeRun:
    """A run directory whose parts, times and manifest are chosen by the test; times are since `START`."""

    def __init__(self, folder, status="running", **manifest):
        self.store = RunStore(str(folder))
        self.store.create()
        session = {"started": stamp(START), "ended": None, "host": "gpu-1"}
        self.manifest = {"status": status, "sessions": [session], "n_units": 40, "n_records": 400, **manifest}
        self.write_manifest(0.0)

    def write_manifest(self, at):
        self.store.write_json("manifest.json", self.manifest)
        self.touch("manifest.json", at)

    def touch(self, name, at):
        os.utime(self.store.path(name), (START + at, START + at))

    def part(self, at, errors=(), seconds=10.0, **statistics):
        """A part of ten records that appears at a time."""
        unit = f"unit{len(self.store.part_ids()):05d}"
        failed = [*errors, *[None] * (10 - len(errors))]
        records = [
            Record("m", "t", "a", 0, 1, str(i), 0, error_type=kind, error=kind and "text")
            for i, kind in enumerate(failed)
        ]
        counts = {"n_records": 10, "n_failed": len(errors), "n_prompts": 10, "prompt_tokens": 0}
        facts = {**counts, "tokens_computed": 100, "seconds": seconds, "scoring_seconds": seconds, **statistics}
        self.store.write_part(unit, to_table(records), facts)
        self.touch(f"parts/{unit}.parquet", at)

    def status(self, at):
        return read_status(self.store.run_dir, START + at)


@pytest.fixture
def made(tmp_path):
    return MadeRun(tmp_path / "run")


def printed(status, fmt="table"):
    file = io.StringIO()
    write_status(Console(file=file, width=200), status, fmt)
    return file.getvalue()


def test_a_finished_run_is_complete_and_fully_counted(make_config, tmp_path, caplog):
    caplog.set_level(logging.INFO, "harness")
    overrides = {"out": str(tmp_path), "task": {"limit": 6}, "cluster": {"shard_size": 2}}
    result = run(make_config(grid={"templates": ["lecture_1"], "k": [0, 2], "seeds": [1, 2]}, **overrides))
    status = read_status(result.run_dir)
    assert status.state is State.COMPLETE
    assert status.units_done == status.units_total == 6
    assert (status.records_done, status.records_exact) == (status.records_total, True) == (18, True)
    assert (status.newest.n_parts, status.newest.n_records, status.newest.n_failed) == (6, 18, 0)
    assert status.rate.prompts_per_s > 0
    assert status.left_s is None
    assert len(status.sessions) == 1 and status.sessions[0].ended
    assert "6/6 units" in status.log_lines[-1]
    assert not any('{"unit"' in line for line in status.log_lines)


def test_rate_and_time_left_follow_from_times_and_footers(made):
    for i in range(10):
        made.part(at=10 + 10 * i)
    status = made.status(at=100)
    assert status.state is State.RUNNING
    assert status.rate.over_s == pytest.approx(100)
    assert status.rate.prompts_per_s == pytest.approx(1.0)
    assert status.rate.tokens_per_s == pytest.approx(10.0)
    assert status.left_s == pytest.approx(300)


def test_the_first_round_of_many_replicas_is_not_an_instants_work(made):
    for i in range(8):
        made.part(at=60 + 0.1 * i, seconds=60)
    assert made.status(at=61).rate.units_per_s == pytest.approx(8 / 61, rel=0.01)


@pytest.mark.parametrize(("after_s", "share"), [(200, 0.25), (600, 0.1), (1200, 0.1)])
def test_the_rate_of_several_replicas_is_near_the_true_one(made, after_s, share):
    """Four replicas, units of 30 to 50 s: one in 10 s. Early on, what is under way is missing."""
    draw, parts = random.Random(5), []
    for _ in range(4):
        at = 0.0
        while True:
            seconds = draw.uniform(30, 50)
            at += seconds
            if at > after_s:
                break
            parts.append((at, seconds))
    for at, seconds in sorted(parts):
        made.part(at=at, seconds=seconds)
    assert made.status(at=after_s).rate.units_per_s == pytest.approx(0.1, rel=share)


def test_only_the_last_minutes_of_this_session_make_the_rate(made):
    for i in range(20):
        made.part(at=-100 + i)
    assert made.status(at=5).rate is None
    for i in range(60):
        made.part(at=10 * (i + 1), seconds=10)
    made.part(at=610, seconds=10)
    assert made.status(at=610).rate.units_per_s == pytest.approx(0.1)
    assert made.status(at=610).rate.over_s == pytest.approx(300)


def test_the_rate_of_a_stopped_run_does_not_fade(made):
    for i in range(10):
        made.part(at=10 + 10 * i)
    made.manifest["status"] = "interrupted"
    made.write_manifest(101)
    status = made.status(at=90_000)
    assert status.state is State.INTERRUPTED
    assert status.rate.prompts_per_s == pytest.approx(1.0)
    assert status.left_s is None


def test_old_parts_are_never_opened(made):
    made.manifest["n_records"] = 100_000
    made.write_manifest(0)
    for i in range(3 * MOST_FOOTERS):
        made.store.write_bytes(f"parts/old{i}.parquet", b"not a part at all")
        made.touch(f"parts/old{i}.parquet", -100)
    for i in range(MOST_FOOTERS):
        made.part(at=i + 1, errors=["ContextError"] if i == 0 else [])
    status = made.status(at=MOST_FOOTERS)
    assert status.newest.n_unreadable == 0
    assert status.units_done == 4 * MOST_FOOTERS
    assert status.newest.n_parts == MOST_FOOTERS
    assert (status.records_done, status.records_exact) == (40 * MOST_FOOTERS, False)
    assert f"1 of {10 * MOST_FOOTERS:,} in the newest {MOST_FOOTERS} parts: ContextError 1" in printed(status)
    assert f"about {40 * MOST_FOOTERS:,}" in printed(status)


def test_an_estimate_of_records_does_not_exceed_all_records(made):
    made.store.write_bytes("parts/old.parquet", b"cut short")
    made.touch("parts/old.parquet", -1)
    made.part(at=10, n_records=300)
    assert (made.status(at=11).records_done, made.status(at=11).records_exact) == (400, False)


def test_failures_are_counted_by_their_type(made):
    made.part(at=10, errors=["ContextError", "RuntimeError"])
    made.part(at=20, errors=["ContextError"])
    newest = made.status(at=21).newest
    assert (newest.n_failed, newest.n_records) == (3, 20)
    assert newest.failures == {"ContextError": 2, "RuntimeError": 1}
    assert "3 of 20: ContextError 2, RuntimeError 1" in printed(made.status(at=21))


def test_a_damaged_part_is_counted_and_does_not_stop_the_reading(made):
    made.part(at=10)
    made.store.write_bytes("parts/zzz.parquet", b"cut short")
    made.touch("parts/zzz.parquet", 20)
    status = made.status(at=21)
    assert (status.newest.n_parts, status.newest.n_unreadable) == (1, 1)
    assert "1 parts; `harness run` computes them again" in printed(status)


def test_replicas_are_named_where_footers_name_them(made):
    made.part(at=10)
    assert made.status(at=21).newest.replicas == {}
    assert "\nreplicas" not in printed(made.status(at=21))
    for i, name in enumerate(["b", "a", "b"]):
        made.part(at=20 + i, replica=name)
    assert made.status(at=23).newest.replicas == {"a": 1, "b": 2}
    assert "2 in the newest 4 parts: a (1), b (2)" in printed(made.status(at=23))


def test_a_run_that_writes_nothing_is_silent(made):
    made.part(at=10)
    assert made.status(at=120).state is State.RUNNING
    status = made.status(at=140)
    assert (status.state, status.quiet_s) == (State.SILENT, 130)
    assert status.left_s is None
    assert "running, but silent for 2m10s" in printed(status)


def test_long_units_and_loading_are_not_silence(made):
    assert made.status(at=500).state is State.RUNNING
    assert made.status(at=700).state is State.SILENT
    made.part(at=700, seconds=200)
    assert made.status(at=1200).state is State.RUNNING
    assert made.status(at=1400).state is State.SILENT


def test_a_line_in_the_log_is_a_sign_of_life(made):
    made.part(at=10)
    made.store.write_bytes("run.log", b"00:00 INFO loading\n")
    made.touch("run.log", 200)
    assert made.status(at=210).state is State.RUNNING


def test_a_killed_driver_is_known_on_its_own_machine_only(made):
    made.part(at=10)
    made.store.write_bytes("run.lock", b"1")
    assert made.status(at=30).driver_gone is None
    made.manifest["sessions"][0]["host"] = platform.node()
    made.write_manifest(0)
    with RunLock(made.store):
        assert (made.status(at=30).driver_gone, made.status(at=30).state) == (False, State.RUNNING)
    status = made.status(at=30)
    assert (status.driver_gone, status.state) == (True, State.SILENT)
    assert "its driver is gone, last written 20s ago; run the same command again" in printed(status)


def test_a_lease_tells_every_machine_whether_the_driver_lives(made):
    made.part(at=10)
    made.store.write_bytes("lease-1.json", b"{}")
    made.touch("lease-1.json", 290)
    status = made.status(at=300)
    assert (status.driver_gone, status.state, status.quiet_s) == (False, State.SILENT, 290)
    assert "silent for 4m50s; its driver lives" in printed(status)
    assert made.status(at=409).driver_gone is False
    assert made.status(at=411).driver_gone is True


def test_reading_the_status_keeps_no_driver_out(made):
    made.manifest["sessions"][0]["host"] = platform.node()
    made.write_manifest(0)
    made.store.write_bytes("run.lock", b"1")
    assert made.status(at=300).driver_gone is True
    with RunLock(made.store):
        assert made.status(at=300).driver_gone is False


def test_run_directories_without_counts_are_read_as_far_as_they_go(tmp_path):
    made = MadeRun(tmp_path / "old")
    del made.manifest["n_units"], made.manifest["n_records"], made.manifest["sessions"][0]["host"]
    made.write_manifest(0)
    made.part(at=10)
    status = made.status(at=20)
    assert (status.units_total, status.records_total, status.left_s) == (None, None, None)
    assert status.rate is not None and status.sessions[0].host is None
    text = printed(status)
    assert "units     1\n" in text and "records   10\n" in text


def test_a_run_without_parts_has_a_status(made):
    status = made.status(at=5)
    assert (status.units_done, status.records_done, status.records_exact) == (0, 0, True)
    assert status.rate is None and status.log_lines == ()
    assert "units     0 of 40 (0.0%)" in printed(status)


def test_sessions_that_were_killed_are_told_from_the_one_that_goes_on(made):
    killed, ended, current = ({**made.manifest["sessions"][0]} for _ in range(3))
    ended["ended"] = stamp(START - 100)
    made.manifest["sessions"] = [killed, ended, current]
    made.write_manifest(0)
    lines = [line for line in printed(made.status(at=1)).splitlines() if line.startswith("session")]
    assert [line.split(" to ")[1] for line in lines] == [
        "killed on gpu-1", f"{stamp(START - 100)} on gpu-1", "going on on gpu-1",
    ]  # fmt: skip


def test_the_end_of_a_long_log_is_shown_without_what_steers_a_terminal(made):
    lines = [f"00:00 INFO line {i}" for i in range(20_000)] + ['00:00 INFO {"unit": "ab", "n_records": 3}'] * 3
    made.store.write_bytes("run.log", "\n".join([*lines, "00:01 WARNING \x1b[31mlast"]).encode())
    status = made.status(at=1)
    assert status.log_lines[:2] == ("00:00 INFO line 19993", "00:00 INFO line 19994")
    assert "00:01 WARNING \\u001b[31mlast" in printed(status)


def test_storage_that_is_not_local_tells_the_same(made):
    import fsspec

    made.part(at=10, errors=["ContextError"])
    made.part(at=20)
    made.store.write_bytes("run.log", b"00:00 INFO line\n")
    made.touch("run.log", 20)
    remote = RunStore(made.store.run_dir)
    remote.fs, remote.is_local = fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("file"))), False
    assert status_of(remote, START + 25) == made.status(at=25)


def test_json_has_every_field(made):
    made.part(at=10, errors=["ContextError"])
    values = json.loads(printed(made.status(at=20), "json"))
    assert values["state"] == "running"
    assert values["newest"]["failures"] == {"ContextError": 1}
    assert set(values) == set(made.status(at=20).__dataclass_fields__)


def test_what_is_no_run_directory_is_refused(tmp_path, made):
    with pytest.raises(RunDirError, match="is not a run directory"):
        read_status(str(tmp_path))
    made.manifest["status"] = "compleet"
    made.write_manifest(0)
    with pytest.raises(RunDirError, match="has the status 'compleet'; did you mean 'complete'"):
        made.status(at=1)
