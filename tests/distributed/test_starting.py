"""How a run starts on Ray: token, addresses, signals, clusters that are not there or have no room."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from harness import run
from harness.cluster.blocks import samples_from, shard_refs
from harness.cluster.private import private_token
from harness.config.loading import load_config
from harness.core.errors import ClusterError
from harness.core.task import Sample
from harness.planning.units import Shard
from harness.running import driver
from harness.running.stopping import stoppable
from tests.conftest import REPO
from tests.distributed.simulated import SimulatedCluster

SMALL = ["task.limit=12", "grid.templates=[lecture_1]", "grid.k=[0]", "grid.seeds=[1]", "model.dtype=float32"]
SAMPLES = [Sample(str(i), {"document": f"text {i}"}, i % 2) for i in range(4)]
LISTENING = """
import json, psutil
from harness.cluster.session import ray_session

with ray_session("local"):
    me = psutil.Process()
    sockets = [c for p in [me, *me.children(recursive=True)] for c in p.net_connections(kind="inet")]
    print(json.dumps(sorted({c.laddr.ip for c in sockets if c.status == psutil.CONN_LISTEN})))
"""


def start(*arguments: str, home: Path | str | None = None, **options) -> subprocess.Popen[str]:
    """A Python process of its own, without the words on Ray that this one may have in its environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(home)} if home else {}
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=REPO, env=environment, text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )  # fmt: skip


def start_run(out: Path, *overrides: str, **options) -> subprocess.Popen[str]:
    given = [f"out={out}", "name=run", *SMALL, *overrides]
    return start("-m", "harness", "run", "configs/demo.yaml", *given, **options)


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_token_is_made_for_its_owner_alone(home):
    before = os.umask(0)
    try:
        with private_token():
            path = home / ".ray" / "auth_token"
            assert (mode_of(path), mode_of(path.parent)) == (0o600, 0o700)
    finally:
        os.umask(before)
    token = path.read_text()
    assert len(token) == 64
    with private_token():
        assert path.read_text() == token
    assert [p.name for p in path.parent.iterdir()] == ["auth_token"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o666])
def test_the_mode_of_an_old_token_is_repaired(home, mode):
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("f" * 64)
    path.chmod(mode)
    with private_token():
        assert (mode_of(path), path.read_text()) == (0o600, "f" * 64)


def test_what_the_user_says_about_the_token_stays(home, monkeypatch):
    for name, value in [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "x"), ("RAY_AUTH_TOKEN_PATH", "/x")]:
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with private_token():
                assert not (home / ".ray").exists()
                assert os.environ[name] == value


def test_a_home_that_cannot_be_written_leaves_the_token_in_the_environment(monkeypatch, home):
    (home / "file").touch()
    monkeypatch.setenv("HOME", str(home / "file"))
    with private_token():
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_local_mode_listens_on_the_loopback_alone_and_keeps_its_token_private(tmp_path):
    process = start("-c", LISTENING, home=tmp_path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert {address.removeprefix("::ffff:") for address in json.loads(output)} == {"127.0.0.1"}
    assert mode_of(tmp_path / ".ray" / "auth_token") == 0o600


@pytest.mark.slow
def test_a_run_needs_no_home_that_it_can_write(tmp_path):
    process = start_run(tmp_path, "cluster.address=local", home="/proc/nowhere")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("last", [None, "file", "variable"])
def test_a_cluster_that_is_not_there_is_said_at_once_before_anything_is_prepared(tmp_path, monkeypatch, last):
    import ray
    from ray._private import services

    def prepare(config):
        raise AssertionError("prepared")

    monkeypatch.setattr(services, "_find_address_from_flag", lambda flag: set())
    monkeypatch.setattr(driver, "prepare", prepare)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # by another test
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    address = f"127.0.0.1:{free_port()}"
    expected = "no Ray runs on this machine, and RAY_ADDRESS is not set"
    if last == "file":  # what `ray start` leaves when its machine or processes die
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        expected = f"{address} where Ray ran last: .*refused"
    elif last == "variable":
        monkeypatch.setenv("RAY_ADDRESS", address)
        expected = f"{address} of RAY_ADDRESS: .*refused"
    started = time.monotonic()
    with pytest.raises(ClusterError, match=f"no Ray cluster .*cluster.address='auto'.*{expected}.*`ray start --head`"):
        run(load_config("configs/demo.yaml", [f"out={tmp_path}", "cluster.address=auto"]))
    assert time.monotonic() - started < 2
    assert not (tmp_path / "demo").exists()


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def names_of(processes: list[psutil.Process]) -> str:
    names = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append(process.name())
    return " ".join(names)


def wait_until(condition, process: subprocess.Popen[str], limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "begun"),
    [
        (signal.SIGTERM, "raylet"),
        pytest.param(signal.SIGTERM, "gcs_server", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "ray::", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "raylet", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "raylet", marks=pytest.mark.slow),
    ],
)
def test_a_signal_while_ray_starts_ends_the_run_and_all_of_ray(tmp_path, number, begun):
    process = start_run(tmp_path, "cluster.address=local")
    wait_until(lambda: begun in names_of(children_of(process)), process)
    before = children_of(process)
    process.send_signal(number)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=30)
    took = time.monotonic() - sent
    assert process.returncode == 128 + number
    assert took < 3, took
    assert "Go on with: harness run" in errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(before, timeout=3)
    assert not alive, "processes of Ray outlive the run"


@pytest.mark.parametrize("address", ["inline", pytest.param("local", marks=pytest.mark.slow)])
def test_a_closed_terminal_stops_the_run_as_sigterm_does(tmp_path, address):
    master, slave = pty.openpty()
    script = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
    )
    command = [sys.executable, "-m", "harness", "run", "configs/demo.yaml", f"out={tmp_path}", "name=run"]
    command += [*SMALL, "task.limit=200", "cluster.shard_size=1", f"cluster.address={address}"]
    process = start(
        "-c", script, *command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )  # fmt: skip
    os.close(slave)
    os.set_blocking(master, False)

    def has_parts() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(master, 2**16)
        return len(list(tmp_path.glob("run/parts/*.parquet"))) > 2

    wait_until(has_parts, process)
    before = children_of(process)
    os.close(master)
    assert process.wait(timeout=30) == 129
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "interrupted"
    _, alive = psutil.wait_procs(before, timeout=10)
    assert not alive, "processes of Ray outlive the run"


def test_nohup_keeps_a_run_from_stopping_when_its_terminal_closes():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


HOLDING = """
import sys
import ray

@ray.remote(num_cpus=1)
class Other:
    def answer(self):
        return None

ray.init(address=sys.argv[1], log_to_driver=False)
others = [Other.remote() for _ in range(int(ray.cluster_resources()["CPU"]))]
ray.get([other.answer.remote() for other in others])
print("held", flush=True)
sys.stdin.read()
"""


def test_shards_become_blocks_where_all_processors_are_taken(shared_ray):
    import ray

    class Other:
        def answer(self):
            return None

    other = ray.remote(num_cpus=ray.cluster_resources()["CPU"])(Other).remote()
    ray.get(other.answer.remote(), timeout=60)
    found = []
    shards = [Shard(0, tuple(SAMPLES[:2]), ""), Shard(1, tuple(SAMPLES[2:]), "")]
    waiter = threading.Thread(target=lambda: found.extend(ray.get(shard_refs(shards))), daemon=True)
    try:
        waiter.start()
        waiter.join(20)
        assert [samples_from(table) for table in found] == [SAMPLES[:2], SAMPLES[2:]]
    finally:
        ray.kill(other)
        waiter.join(20)


@pytest.mark.slow
def test_a_cluster_without_room_is_said_and_left_by_ctrl_c(tmp_path):
    with SimulatedCluster(num_cpus=2) as cluster:
        holder = start("-c", HOLDING, cluster.address, stdin=subprocess.PIPE)
        assert holder.stdout is not None and holder.stdout.readline() == "held\n", holder.communicate()
        process = start_run(tmp_path, f"cluster.address={cluster.address}", "model.device=cpu")
        started = time.monotonic()
        log = tmp_path / "run" / "run.log"
        words = "no replica has started after 20 s: each takes 2 CPU of one node, 0 of 2 are free"
        wait_until(lambda: log.exists() and words in log.read_text(), process)
        loading = time.mktime(time.strptime(line_with("loading ", log)[:19], "%Y-%m-%d %H:%M:%S"))
        said = time.mktime(time.strptime(line_with(words, log)[:19], "%Y-%m-%d %H:%M:%S"))
        assert said - loading <= 30, time.monotonic() - started
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        assert process.wait(timeout=30) == 130
        assert time.monotonic() - sent < 3
        assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "interrupted"
        holder.communicate("")


def line_with(words: str, log: Path) -> str:
    return next(line for line in log.read_text().splitlines() if words in line)


@pytest.mark.slow
def test_a_raylet_that_is_killed_ends_the_run_with_one_line(tmp_path):
    process = start_run(tmp_path, "cluster.address=local", "task.limit=300", "cluster.shard_size=1")
    wait_until(lambda: len(list(tmp_path.glob("run/parts/*.parquet"))) > 2, process)
    before = children_of(process)
    for child in before:
        if child.name() == "raylet":
            child.kill()
    killed = time.monotonic()
    output, errors = process.communicate(timeout=30)
    assert time.monotonic() - killed < 10
    assert process.returncode == 1, errors
    assert "is gone, and with it the replicas here; committed work is kept" in errors.splitlines()[-1]
    assert [line.startswith("error: ") for line in errors.splitlines()].count(True) == 1
    assert "Traceback" not in errors and "state-dump" not in output
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "failed"
    _, alive = psutil.wait_procs(before, timeout=30)
    assert not alive, "processes of Ray outlive the run"
