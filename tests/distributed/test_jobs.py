"""A run as a Ray job, on a real head: what it records, how it ends, how it goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import load_records, run
from harness.config.loading import load_config
from harness.results.store import RunStore
from tests.conftest import REPO

pytestmark = pytest.mark.slow
RAY = Path(sys.executable).with_name("ray")
ORDER = ["template", "k", "seed", "sample_id"]
OVERRIDES = [
    "task.limit=200", "cluster.shard_size=4", "grid.templates=[lecture_1,good_bad]", "grid.k=[0,2,4]",
    "model.dtype=float32", "model.device=cpu",
]  # fmt: skip
N_SAMPLES, N_UNITS = 200, 200


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head as the cluster files start it, token and all, on ports and in folders of its own.

    Gives the address for jobs, the environment that a user's shell would have, and the metrics' port.
    """
    folder = tmp_path_factory.mktemp("head")
    port, dashboard, client, agent, metrics, agent_grpc = free_ports(6)
    token = folder / "auth_token"
    # Unix sockets have short names only.
    temporary = Path("/tmp") / f"ray-{os.getpid()}"
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "30",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{RAY.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPO),
    }
    # Into a home of its own, as a user would make it: Ray refuses a path where no token is yet.
    home = {k: v for k, v in environment.items() if k != "RAY_AUTH_TOKEN_PATH"} | {"HOME": str(folder)}
    made = subprocess.run([RAY, "get-auth-token", "--generate"], env=home, capture_output=True, text=True, check=True)
    token.touch(0o600)
    token.write_text(made.stdout.strip())
    command = [
        RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={temporary}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}",
        f"--metrics-export-port={metrics}", "--num-cpus=3", f"--object-store-memory={256 * 2**20}",
    ]  # fmt: skip
    with open(folder / "ray.log", "w") as log:
        # `ray stop` would end every Ray of this machine; a session of its own can be ended alone.
        started = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: listens(dashboard), 90, lambda: (folder / "ray.log").read_text())
        yield f"http://127.0.0.1:{dashboard}", environment, metrics
    finally:
        end_session(started, temporary)


def end_session(started: subprocess.Popen[bytes], temporary: Path) -> None:
    """End a head with all it started: they name its folder, or its process group."""
    started.send_signal(signal.SIGTERM)
    try:
        started.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait(30)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(temporary).encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue
    subprocess.run(["rm", "-rf", str(temporary)], check=False)


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition, most_s: float, say=lambda: "") -> None:
    deadline = time.monotonic() + most_s
    while not condition():
        assert time.monotonic() < deadline, say()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    """Records of the same grid without Ray."""
    out = tmp_path_factory.mktemp("inline")
    config = load_config("configs/demo.yaml", [*OVERRIDES, f"out={out}", "cluster.address=inline"])
    return load_records(run(config).run_dir)


def same(run_dir: Path, inline) -> None:
    """Records equal but for what float32 sums in another order may change."""
    found = load_records(str(run_dir))
    assert len(found) == len(inline) == N_SAMPLES * 2 * 3 * 2
    assert found[[*ORDER, "prediction", "argmax_token", "n_prompt_tokens", "error"]].equals(
        inline[[*ORDER, "prediction", "argmax_token", "n_prompt_tokens", "error"]]
    )
    for one, other in zip(found["label_logprobs"], inline["label_logprobs"], strict=True):
        assert list(one) == pytest.approx(list(other), abs=1e-5)


def ray_job(head, *words: str) -> subprocess.CompletedProcess[str]:
    address, environment, _ = head
    command = [RAY, "job", words[0], "--address", address, *words[1:]]
    return subprocess.run(command, env=environment, cwd=REPO, capture_output=True, text=True, timeout=300)


def parts(run_dir: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (run_dir / "parts").glob("*.parquet")}


def test_a_submitted_run_has_the_records_of_an_inline_run(head, inline, tmp_path):
    words = ["python", "-m", "harness", "run", "configs/demo.yaml", "cluster.address=auto", f"out={tmp_path}"]
    done = ray_job(head, "submit", "--working-dir", ".", "--", *words, *OVERRIDES)
    assert done.returncode == 0, done.stdout + done.stderr
    same(tmp_path / "demo", inline)


def test_a_stopped_job_goes_on_with_what_is_missing_when_it_is_submitted_again(head, inline, tmp_path):
    address, environment, _ = head
    run_dir = tmp_path / "demo"
    submit = [REPO / "clusters" / "submit.sh", "--address", address, "configs/demo.yaml", f"out={tmp_path}", *OVERRIDES]
    with open(tmp_path / "log", "w") as log:
        first = subprocess.Popen(submit, env=environment, cwd=REPO, stdout=log, stderr=log)
    wait_for(lambda: len(parts(run_dir)) >= 1, 120, (tmp_path / "log").read_text)
    (job,) = [word.strip("'\"") for word in (tmp_path / "log").read_text().split() if word.startswith("'harness-2")][:1]
    ray_job(head, "stop", job)
    assert first.wait(60) == 143, (tmp_path / "log").read_text()
    before = parts(run_dir)
    assert RunStore(str(run_dir)).read_json("manifest.json")["status"] == "interrupted"
    assert 1 <= len(before) < N_UNITS, "stopped too late to show anything; give the run more units"

    again = subprocess.run(submit, env=environment, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    after = parts(run_dir)
    assert len(after) == N_UNITS
    assert {name: after[name] for name in before} == before, "units that were committed were written again"
    assert len(RunStore(str(run_dir)).read_json("manifest.json")["sessions"]) == 2
    same(run_dir, inline)


def test_a_misspelt_key_ends_the_job_with_the_runs_own_status(head, tmp_path):
    address, environment, _ = head
    submit = [
        REPO / "clusters" / "submit.sh",
        "--address",
        address,
        "configs/demo.yaml",
        f"out={tmp_path}",
        "grid.kk=1",
    ]
    done = subprocess.run(submit, env=environment, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "grid.kk" in done.stdout + done.stderr
    assert not (tmp_path / "demo").exists()
