"""Run directories on storage that fails, fills up, and is not a local disk."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from harness import run
from harness.cli import app
from harness.config.loading import load_config
from harness.config.schema import RunConfig
from harness.core.errors import RunDirError, StorageError, UserError
from harness.results import files as run_files
from harness.results import lock as locks
from harness.results.lock import RunLock
from harness.results.retrying import Patience, is_transient, patiently
from harness.results.schema import Record, to_table
from harness.results.store import FOOTER_BYTES, RunStore
from harness.running.messages import note_name
from harness.running.run_log import log_file
from tests.conftest import REPO
from tests.distributed.compare import assert_equal_records
from tests.forked import Forked

TABLE = to_table([Record("m", "t", "a", 0, 1, f"s{i}", 1, 1, [-0.1, -2.0]) for i in range(20)])
OTHER = to_table([Record("m", "t", "a", 0, 1, "other", 0, 0, [-0.2, -1.0])])


UNITS = 24
GRID = [
    "name=run",
    "model.dtype=float32",
    "model.device=cpu",
    "task.limit=36",
    "grid.templates=[lecture_1,good_bad]",
    "grid.k=[0,2]",
    "grid.seeds=[1,2]",
    "cluster.address=inline",
    "cluster.shard_size=6",
]


def grid(out: str | Path, *overrides: str) -> RunConfig:
    """A small float32 grid on the embedded model and data: `UNITS` units."""
    return load_config(REPO / "configs" / "demo.yaml", [f"out={out}", *GRID, *overrides])


@pytest.fixture(scope="module")
def local_run(tmp_path_factory):
    """The grid on a local disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPO)
        return run(grid(tmp_path_factory.mktemp("local")))


@dataclass
class Waits:
    """A clock that moves only while somebody waits."""

    taken: list[float] = field(default_factory=list)
    draw: float = 1.0

    def patience(self, **settings: float) -> Patience:
        return Patience(wait=self.taken.append, clock=lambda: sum(self.taken), draw=lambda: self.draw, **settings)


class Flaky:
    """A file system of which every operation fails a few times before it works."""

    def __init__(self, inner: Any, failures: int) -> None:
        self.inner, self.failures = inner, failures
        self.failed: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        def operate(*given: Any, **settings: Any) -> Any:
            self.failed[name] = self.failed.get(name, 0) + 1
            if self.failed[name] <= self.failures:
                raise OSError(errno.EIO, "Input/output error")
            return getattr(self.inner, name)(*given, **settings)

        return operate


# Errors as pyarrow 26 raised them, against a server that was told to answer so, or against none.
S3_PUT = "When uploading object with key 'a' in bucket 'b': AWS Error {} during PutObject operation: "


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (OSError(S3_PUT.format("NETWORK_CONNECTION") + "curlCode: 7, Could not connect to server"), True),
        (OSError(S3_PUT.format("SLOW_DOWN") + "m"), True),
        (OSError(S3_PUT.format("INTERNAL_FAILURE") + "m"), True),
        (OSError(S3_PUT.format("UNKNOWN (HTTP status 503)") + "No response body."), True),
        (OSError(S3_PUT.format("UNKNOWN (HTTP status 429)") + "No response body."), True),
        (OSError(S3_PUT.format("UNKNOWN (HTTP status 400)") + "Unable to parse ExceptionName: ExpiredToken"), False),
        (OSError(S3_PUT.format("ACCESS_DENIED") + "No response body."), False),
        (OSError(S3_PUT.format("NO_SUCH_BUCKET") + "The specified bucket does not exist"), False),
        (OSError("google::cloud::Status(UNAVAILABLE: Retry policy exhausted, with a last message of"), True),
        (OSError("Unable to load libjvm"), False),
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), False),
        (pa.ArrowInvalid("Expected a local filesystem path, got a URI: 's3://a'"), False),
    ],
)
def test_errors_that_pass_by_themselves_are_told_from_those_that_do_not(error, transient):
    assert is_transient(error) is transient


def test_each_retry_is_one_warning_with_operation_and_cause(caplog):
    waits, outcomes = Waits(), [OSError(errno.EIO, "Input/output error"), OSError(errno.ESTALE, "Stale file handle")]

    def action() -> str:
        if outcomes:
            raise outcomes.pop(0)
        return "done"

    with caplog.at_level(logging.WARNING):
        assert patiently("run/parts/a", "written", action, waits.patience()) == "done"
    assert waits.taken == [0.5, 1.0]
    assert [r.message for r in caplog.records] == [
        "'run/parts/a' was not written ([Errno 5] Input/output error); trying again in 0.5 s",
        "'run/parts/a' was not written ([Errno 116] Stale file handle); trying again in 1.0 s",
    ]


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
def test_waits_grow_and_end_within_half_a_minute(draw):
    waits = Waits(draw=draw)

    def action() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(StorageError, match=r"'x' cannot be read: the storage failed \d+ times in \d+ s.*Errno 5") as e:
        patiently("x", "read", action, waits.patience())
    assert not isinstance(e.value, UserError), "dispatch tries the unit again unless it is the user's error"
    assert 20 < sum(waits.taken) <= 30
    assert waits.taken[:4] == [size * (0.5 + draw / 2) for size in (0.5, 1.0, 2.0, 4.0)]
    assert max(waits.taken) <= 8


def test_time_that_the_operation_itself_takes_counts():
    now = [0.0]

    def action() -> None:
        now[0] += 12.0
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    def wait(seconds: float) -> None:
        now[0] += seconds

    with pytest.raises(StorageError, match="failed 3 times in 3"):
        patiently("x", "read", action, Patience(wait=wait, clock=lambda: now[0], draw=lambda: 1.0))
    assert now[0] < 30 + 12


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file"), FileNotFoundError, "No such file"),
        (PermissionError(errno.EACCES, "Permission denied"), RunDirError, "'x' cannot be read.*denied.*set out="),
        (OSError(S3_PUT.format("ACCESS_DENIED")), RunDirError, "ACCESS_DENIED.*check the address, the credentials"),
        (RunDirError("said before"), RunDirError, "said before"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_what_does_not_pass_is_not_tried_again(error, kind, words):
    waits, tries = Waits(), []

    def action() -> None:
        tries.append(1)
        raise error

    with pytest.raises(kind, match=words):
        patiently("x", "read", action, waits.patience())
    assert (len(tries), waits.taken) == (1, [])


OPERATIONS = {
    "create": lambda store: store.create(),
    "exists": lambda store: store.exists("manifest.json"),
    "files": lambda store: store.files("parts"),
    "write_bytes": lambda store: store.write_bytes("b", b"bytes"),
    "read_bytes": lambda store: store.read_bytes("manifest.json"),
    "read_end": lambda store: store.read_end("manifest.json", 8),
    "remove": lambda store: store.remove("manifest.json"),
    "write_json": lambda store: store.write_json("j", {}),
    "read_json": lambda store: store.read_json("manifest.json"),
    "write_table": lambda store: store.write_table("t", TABLE),
    "read_table": lambda store: store.read_table("cells.parquet"),
    "write_part": lambda store: store.write_part("v", TABLE, {}),
    "amend_part": lambda store: store.amend_part("u", TABLE, {}),
    "read_part": lambda store: store.read_part("u"),
    "read_parts": lambda store: list(store.read_parts({"u"})),
    "part_ids": lambda store: store.part_ids(),
    "read_statistics": lambda store: store.read_statistics("u"),
    "remove_part": lambda store: store.remove_part("u"),
}
NOT_ON_STORAGE = {"path", "concatenate", "remove_leftovers", "anew"}
"""`remove_leftovers` is for local disks; it consists of `files` and `remove`."""


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_of_the_store_has_patience(name):
    waits = Waits()
    store = RunStore("mock:///bucket/run", waits.patience())
    store.create()
    store.write_json("manifest.json", {"status": "running"})
    store.write_table("cells.parquet", TABLE)
    store.write_part("u", TABLE, {"n": 1})
    store.fs = Flaky(store.fs, failures=2)
    OPERATIONS[name](store)
    assert store.fs.failed, "the operation does not use the storage"
    assert len(waits.taken) == 2 * len(store.fs.failed)


def test_opening_a_storage_has_patience(monkeypatch):
    waits, failures, whole = Waits(), [1, 1], run_files._open

    def open_late(uri: str) -> Any:
        if failures:
            failures.pop()
            raise OSError(
                "When resolving region for bucket 'b': AWS Error NETWORK_CONNECTION during HeadBucket operation"
            )
        return whole(uri)

    monkeypatch.setattr(run_files, "_open", open_late)
    assert RunStore("mock:///bucket/run", waits.patience()).root == "bucket/run"
    assert waits.taken == [0.5, 1.0]


def test_no_operation_of_the_store_is_left_out():
    public = {name for name in dir(RunStore) if not name.startswith("_")}
    assert public == set(OPERATIONS) | NOT_ON_STORAGE


def test_a_local_write_that_fails_for_a_while_leaves_one_whole_file(tmp_path, monkeypatch):
    waits, failures, flush = Waits(), [1, 1], os.fsync

    def fsync(number: int) -> None:
        if failures:
            failures.pop()
            raise OSError(errno.EIO, "Input/output error")
        flush(number)

    store = RunStore(str(tmp_path / "run"), waits.patience())
    store.create()
    monkeypatch.setattr(os, "fsync", fsync)
    store.write_bytes("name", b"all of it")
    assert len(waits.taken) == 2
    assert (tmp_path / "run" / "name").read_bytes() == b"all of it"
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"parts", "name"}


def test_storage_that_fails_does_not_make_a_part_look_damaged(tmp_path):
    store = RunStore(str(tmp_path), Waits().patience())
    store.create()
    store.write_part("u", TABLE, {})
    store.fs = Flaky(store.fs, failures=10**6)
    with pytest.raises(StorageError):
        store.read_part("u")


def test_a_folder_that_this_machine_does_not_see_is_named_with_the_way_out(tmp_path):
    store = RunStore(str(tmp_path / "elsewhere"))
    with pytest.raises(RunDirError, match=r"elsewhere/parts/u.*not there on this machine; set out=.*every node sees"):
        store.write_part("u", TABLE, {})


@pytest.fixture(params=["local", "s3"])
def any_store(request, tmp_path):
    """A fresh run directory, local or on the S3 server."""
    where = str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3").uri("run")
    store = RunStore(where)
    store.create()
    return store


def test_the_first_commit_of_a_part_stays(any_store):
    assert any_store.write_part("u", TABLE, {"copy": 1}) is True
    first = any_store.read_bytes("parts/u.parquet")
    assert any_store.write_part("u", OTHER, {"copy": 2}) is False
    assert any_store.read_bytes("parts/u.parquet") == first
    assert any_store.read_statistics("u") == {"copy": 1}


def test_a_damaged_part_gives_way_to_a_whole_one(any_store):
    any_store.write_part("u", TABLE, {})
    any_store.write_bytes("parts/u.parquet", any_store.read_bytes("parts/u.parquet")[:-40])
    assert any_store.write_part("u", TABLE, {}) is True
    assert any_store.read_part("u").num_rows == TABLE.num_rows


def test_statistics_of_a_large_part_are_read_from_its_end(any_store):
    records = [Record("m", "t", "a", 0, 1, str(i), -1, raw_answer=os.urandom(3000).hex()) for i in range(1000)]
    any_store.write_part("u", to_table(records), {"n": 1})
    assert len(any_store.read_bytes("parts/u.parquet")) > 4 * FOOTER_BYTES
    assert any_store.read_statistics("u") == {"n": 1}


def test_removing_what_is_gone_is_no_error(any_store):
    any_store.remove("never-there")
    any_store.remove_part("never-there")
    assert any_store.part_ids() == set()


# Disk full


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no right to mount a small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """A file that takes all but `leave` bytes of a disk."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(free - leave))
    return ballast


def part_times(run_dir: str | Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in Path(run_dir).glob("parts/*.parquet")}


def test_a_full_disk_ends_the_run_with_its_name_and_room_lets_it_go_on(small_disk, local_run):
    config = grid(small_disk)
    ballast = fill(small_disk, leave=200_000)
    with pytest.raises(RunDirError, match=rf"'{small_disk}/run/.*No space left on device; the disk or quota is full"):
        run(config)
    before = part_times(config.run_dir)
    assert 0 < len(before) < UNITS
    assert not list(Path(config.run_dir).rglob("*.tmp"))
    for name in before:
        RunStore(config.run_dir).read_part(name.removesuffix(".parquet"))
    ballast.unlink()
    resumed = run(config)
    after = part_times(config.run_dir)
    assert len(after) == UNITS
    assert {name: after[name] for name in before} == before, "a committed part was computed again"
    assert_equal_records(local_run.run_dir, resumed.run_dir)


LIMITED_WRITER = """
import resource, sys
from pathlib import Path
from harness.core.errors import RunDirError
from harness.results.store import RunStore
store = RunStore(sys.argv[1])
store.create()
store.write_bytes("kept", b"small")
whole = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, whole[1]))
try:
    store.write_bytes("kept", bytes(5000))
except RunDirError as error:
    print(error)
print(sorted(p.name for p in Path(sys.argv[1]).iterdir()), store.read_bytes("kept"))
resource.setrlimit(resource.RLIMIT_FSIZE, whole)
store.write_bytes("kept", bytes(5000))
print(len(store.read_bytes("kept")))
"""


def test_a_write_beyond_the_file_size_limit_leaves_the_old_file_and_nothing_else(tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", LIMITED_WRITER, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    refusal, left, after = done.stdout.splitlines()
    assert refusal.startswith(f"'{tmp_path}/kept' cannot be written: [Errno 27] File too large; the disk or quota")
    assert left == "['kept', 'parts'] b'small'"
    assert after == "5000"


# Object storage: a real S3 server on loopback


def test_a_log_that_cannot_be_written_is_told_before_the_run(tmp_path):
    (tmp_path / "run.log").mkdir()
    refused = pytest.raises(RunDirError, match=r"run\.log' cannot be written: Is a directory; expected a file")
    with refused, log_file(RunStore(str(tmp_path))):
        pytest.fail("the run has begun")


def test_a_disk_that_is_full_under_the_log_stops_no_run(tmp_path):
    (tmp_path / "run.log").symlink_to("/dev/full")
    with log_file(RunStore(str(tmp_path))):
        logging.getLogger("harness").warning("x" * 100_000)


@pytest.mark.parametrize("error", [StorageError("it is gone"), RunDirError("no right")])
def test_a_store_that_refuses_the_log_loses_nothing_else(tmp_path, monkeypatch, caplog, error):
    def refuse(*given):
        raise error

    store = RunStore(str(tmp_path))
    monkeypatch.setattr(store, "is_local", False)
    monkeypatch.setattr(store, "write_bytes", refuse)
    with log_file(store):
        pass
    assert f"the log is lost, the records are not: {error}" in caplog.text


class S3Server:
    """moto's S3 behind a gate that counts requests, answers 503 for a while, or goes away."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._inner = DomainDispatcherApplication(create_backend_app)
        self.requests: list[tuple[str, str, str]] = []
        """Method, path, query."""
        self._failing_until = 0.0
        self.port = 0
        self._buckets = 0
        self.bucket = ""
        self.start()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", "")))
        if time.monotonic() < self._failing_until:
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        return self._inner(environ, start_response)

    def start(self) -> None:
        from werkzeug.serving import make_server

        self._server = make_server("127.0.0.1", self.port, self, threaded=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer_503(self, seconds: float) -> None:
        self._failing_until = time.monotonic() + seconds

    def be_gone(self, seconds: float) -> None:
        self.stop()
        time.sleep(seconds)
        self.start()

    @property
    def backend(self) -> Any:
        from moto.backends import get_backend

        return get_backend("s3")["123456789012"]["aws"]

    def new_bucket(self) -> None:
        self._buckets += 1
        self.bucket = f"bucket-{self._buckets}"
        self.backend.create_bucket(self.bucket, "us-east-1")
        self.requests.clear()

    def uri(self, name: str) -> str:
        return f"s3://{self.bucket}/out/{name}"

    def keys(self, name: str) -> dict[str, Any]:
        """Objects of a run directory by their names in it."""
        prefix = f"out/{name}/"
        found = dict(self.backend.get_bucket(self.bucket).keys.items())
        return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}

    def sent(self, method: str, ending: str = "") -> list[str]:
        """Paths of the requests of a method; of listings their prefixes."""
        if method == "LIST":
            return [query for verb, _, query in self.requests if verb == "GET" and "list-type=2" in query]
        return [path for verb, path, _ in self.requests if verb == method and path.endswith(ending)]


@pytest.fixture(scope="module")
def s3_server():
    pytest.importorskip("moto", reason="no S3 server: pip install 'moto[server]'")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
        yield server
    server.stop()


@pytest.fixture
def s3(s3_server):
    """The server with an empty bucket."""
    s3_server.new_bucket()
    return s3_server


def tables(s3: S3Server) -> list[str]:
    """What every session writes beside parts."""
    return [f"/{s3.bucket}/out/run/{name}.parquet" for name in ("samples", "cells")]


def shown(run_dir: str) -> str:
    done = CliRunner().invoke(app, ["show", run_dir, "--format", "csv"])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_run_on_s3_equals_the_local_one_and_resumes_without_computing(s3, local_run):
    first = run(grid(s3.uri("")))
    assert first.run_dir == s3.uri("run")
    assert_equal_records(local_run.run_dir, first.run_dir)
    assert shown(first.run_dir) == shown(local_run.run_dir)
    parts = [f"/{s3.bucket}/out/run/{name}" for name in s3.keys("run") if name.endswith(".parquet") and "/" in name]
    assert len(parts) == UNITS
    assert sorted(s3.sent("PUT", ".parquet")) == sorted([*parts, *tables(s3)]), "one put per file"
    assert not s3.sent("POST"), "a part took more than one request"
    assert [name for name in s3.keys("run") if name.endswith(".tmp") or name.startswith("lease-")] == []

    s3.requests.clear()
    again = run(grid(s3.uri("")))
    assert s3.sent("PUT", ".parquet") == tables(s3), "a unit was computed again"
    assert shown(again.run_dir) == shown(local_run.run_dir)
    assert len(json.loads(s3.keys("run")["manifest.json"].value)["sessions"]) == 2

    victim = parts[7].partition("/out/run/")[2]
    store = RunStore(first.run_dir)
    store.write_bytes(victim, store.read_bytes(victim)[:-40])
    s3.requests.clear()
    run(grid(s3.uri("")))
    assert sorted(s3.sent("PUT", ".parquet")) == sorted([parts[7], *tables(s3)])
    assert f"part {victim[6:38]} cannot be read" in s3.keys("run")["run.log"].value.decode()
    assert_equal_records(local_run.run_dir, first.run_dir)

    with pytest.raises(RunDirError, match=r"--fresh moves local run directories only; set another name="):
        run(grid(s3.uri("")), fresh=True)


@pytest.mark.parametrize("outage", ["answers 503", "is gone"])
def test_a_run_goes_on_after_the_server_failed_for_a_while(s3, local_run, outage):
    def fail_in_the_middle() -> None:
        while len(s3.sent("PUT", ".parquet")) < 10:
            time.sleep(0.01)
        # The client itself tries for up to 3 s, which is not to be what saves the run.
        s3.answer_503(3.5) if outage == "answers 503" else s3.be_gone(3.5)

    failing = threading.Thread(target=fail_in_the_middle)
    failing.start()
    hit = run(grid(s3.uri("")))
    failing.join()
    log = s3.keys("run")["run.log"].value.decode()
    assert log.count("trying again in") >= 1
    assert " failed (attempt" not in log, "the unit was computed again"
    assert_equal_records(local_run.run_dir, hit.run_dir)


def test_ten_thousand_parts_are_listed_by_ten_requests(s3, record_property):
    for number in range(10_000):
        s3.backend.put_object(s3.bucket, f"out/run/parts/{number:032x}.parquet", b"x")
    store = RunStore(s3.uri("run"))
    began = time.monotonic()
    assert len(store.part_ids()) == 10_000
    record_property("seconds", time.monotonic() - began)
    assert len(s3.sent("LIST")) == len(s3.requests) == 10, "S3 lists a thousand keys per request"


def test_the_endpoint_may_be_in_the_uri(s3, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    store = RunStore(f"{s3.uri('run')}?scheme=http&endpoint_override=127.0.0.1:{s3.port}")
    store.create()
    store.write_bytes("name", b"bytes")
    assert s3.keys("run")["name"].value == b"bytes"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3://no-such-bucket/out", r"'s3://no-such-bucket/out/parts' cannot be written: .*'no-such-bucket' not found"),
        ("s3://bucket?scheme=ftp", r"'s3://bucket\?scheme=ftp' cannot be opened: Invalid S3 connection scheme 'ftp'"),
        ("nonsense://x/y", "'nonsense://x/y' cannot be opened: .*check the address"),
    ],
)
def test_storage_that_cannot_be_used_is_refused_at_once(s3, uri, words):
    with pytest.raises(RunDirError, match=words):
        RunStore(uri).create()


def test_a_secret_in_the_uri_is_refused_without_being_repeated():
    with pytest.raises(RunDirError, match=r"holds a secret.*AWS_SECRET_ACCESS_KEY") as refused:
        RunStore("s3://AKIAKEY:wJalrSecret@bucket/out")
    assert "wJalrSecret" not in str(refused.value)


# Leases


def leases(s3: S3Server) -> list[str]:
    return [name for name in s3.keys("run") if name.startswith("lease-")]


@contextmanager
def held(store: RunStore, **settings: float) -> Iterator[None]:
    with RunLock(store, **settings):
        yield


@pytest.fixture
def remote(s3):
    store = RunStore(s3.uri("run"))
    store.create()
    return store


def test_a_second_driver_on_s3_is_refused_with_the_holder_named(s3, remote):
    with held(remote):
        lease = json.loads(s3.keys("run")[leases(s3)[0]].value)
        assert (lease["pid"], lease["host"]) == (os.getpid(), os.uname().nodename)
        with (
            pytest.raises(
                RunDirError, match=rf"in use by another driver \(process {os.getpid()} on .*last seen \d+ s ago\)"
            ),
            held(RunStore(remote.run_dir)),
        ):
            pytest.fail("two drivers hold one run directory")
        with pytest.raises(RunDirError, match="in use by another driver"):
            run(grid(s3.uri("")))
        assert len(leases(s3)) == 1, "a refused driver leaves its lease"
    assert leases(s3) == []
    with held(remote):
        pass


def test_of_two_drivers_that_start_together_at_most_one_goes_on(remote):
    inside, most, guard = [0], [0], threading.Lock()
    gate = threading.Barrier(4)

    def drive() -> None:
        gate.wait()
        try:
            with held(RunStore(remote.run_dir)):
                with guard:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(0.5)
                with guard:
                    inside[0] -= 1
        except RunDirError:
            pass

    threads = [threading.Thread(target=drive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] <= 1


@pytest.mark.parametrize(("age_s", "refused"), [(100, True), (130, False)])
def test_a_lease_counts_for_two_minutes_of_the_storages_clock(s3, remote, caplog, age_s, refused):
    # The host that wrote it has a clock in another century: only the storage's times matter.
    remote.write_json("lease-dead.json", {"host": "node", "pid": 7, "heartbeat": "1999-01-01T00:00:00+00:00"})
    s3.keys("run")["lease-dead.json"].last_modified -= timedelta(seconds=age_s)
    if refused:
        with (
            pytest.raises(RunDirError, match=r"process 7 on node, last seen (99|100|101) s ago.* ends in (19|20|21) s"),
            held(remote),
        ):
            pass
        assert leases(s3) == ["lease-dead.json"]
    else:
        with held(remote):
            assert "lease-dead.json" not in leases(s3)
        assert "ended without a word 1" in caplog.text


def test_a_driver_that_was_killed_is_followed_by_one_on_another_machine(s3, local_run, monkeypatch, caplog):
    overrides = [f"out={s3.uri('')}", *GRID]
    command = [sys.executable, "-m", "harness", "run", "configs/demo.yaml", *overrides]
    driver = Forked(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while len(s3.sent("PUT", ".parquet")) < 6:
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.01)
    finally:
        driver.kill()
        driver.communicate()
    written = {name: key.last_modified for name, key in s3.keys("run").items()}
    before = {name: when for name, when in written.items() if name.startswith("parts/") and name.endswith(".parquet")}
    store = RunStore(s3.uri("run"))
    note = note_name(min(store.part_ids()))
    for name in (note, "trying-hard.json"):
        store.write_json(name, {"sample": "what a replica of that driver tried last"})
    monkeypatch.setattr("platform.node", lambda: "another-machine")
    with pytest.raises(
        RunDirError, match=rf"process {driver.pid} on {os.uname().nodename}, .*when it was killed, its lease ends in"
    ):
        run(grid(s3.uri("")))
    # As if two minutes had gone by on the storage's clock.
    s3.keys("run")[leases(s3)[0]].last_modified -= timedelta(seconds=130)
    resumed = run(grid(s3.uri("")))
    assert "the lease of a driver that ended without a word" in caplog.text
    after = {name: key.last_modified for name, key in s3.keys("run").items() if name in before}
    assert note not in s3.keys("run")
    assert "trying-hard.json" in s3.keys("run"), "a file of the user's"
    assert 5 <= len(before) < UNITS and after == before, "a committed part was written again"
    assert_equal_records(local_run.run_dir, resumed.run_dir)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_storage_whose_clock_is_wrong_changes_nothing(s3, local_run, monkeypatch, hours):
    from moto.s3 import models

    true_time = models.utcnow
    monkeypatch.setattr(models, "utcnow", lambda: true_time() + timedelta(hours=hours))
    first = run(grid(s3.uri("")))
    assert_equal_records(local_run.run_dir, first.run_dir)
    shift = s3.keys("run")["manifest.json"].last_modified.timestamp() - time.time()
    assert abs(shift - 3600 * hours) < 60, "the server does not tell the shifted time"
    with (
        held(RunStore(first.run_dir)),
        pytest.raises(RunDirError, match=r"in use by another driver .*last seen [0-5] s ago"),
    ):
        run(grid(s3.uri("")))
    s3.requests.clear()
    run(grid(s3.uri("")))
    assert s3.sent("PUT", ".parquet") == tables(s3), "a unit was computed again"


def test_a_lease_is_renewed_while_the_driver_lives(s3, remote):
    with held(remote, beat_s=0.1):
        (name,) = leases(s3)
        s3.requests.clear()
        time.sleep(0.8)
        assert len(s3.sent("PUT", name)) >= 3
    s3.requests.clear()
    time.sleep(0.3)
    assert s3.requests == [], "it goes on renewing after its end"


def test_a_driver_that_lost_its_lease_says_so_and_does_not_take_it_back(s3, remote, caplog):
    with held(remote, beat_s=0.1):
        remote.remove(leases(s3)[0])
        time.sleep(0.5)
        assert leases(s3) == []
    assert caplog.text.count("another driver has removed it") == 1


def test_a_failing_renewal_does_not_end_the_driver(s3, remote, caplog):
    class Failing(RunStore):
        def files(self, *names: str) -> dict[str, int]:
            if threading.current_thread() is not threading.main_thread():
                raise StorageError("storage is away")
            return super().files(*names)

    with held(Failing(remote.run_dir), beat_s=0.1):
        time.sleep(0.35)
    assert caplog.text.count("the lease was not renewed: storage is away") >= 2
    assert leases(s3) == []


def test_a_file_system_without_locks_is_held_by_a_lease(tmp_path, monkeypatch):
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    store = RunStore(str(tmp_path))
    store.create()
    with (
        held(store),
        pytest.raises(RunDirError, match=rf"in use by another driver \(process {os.getpid()} on"),
        held(RunStore(str(tmp_path))),
    ):
        pass
    assert not list(tmp_path.glob("lease-*"))
