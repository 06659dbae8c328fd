"""Several Ray nodes with pretended GPUs on this machine, in a process of their own.

`SimulatedCluster` talks to that process by lines of JSON: Ray reads how fast it declares nodes dead when it
is imported, and a test process may hold another Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

REPO = Path(__file__).resolve().parents[2]
QUICK_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "2",
}
STORE_BYTES = 80 * 2**20
GRID = [
    "model.engine=tests.fake_engine:ENGINE", "task.limit=40", "grid.k=[2]", "grid.seeds=[1,2,3]", "cluster.shard_size=2"
]  # fmt: skip
N_UNITS = 300
"""Of `GRID` on the demo's five templates."""
N_PROMPTS = 2 * N_UNITS


def start_driver(address: str, out: str | Path, name: str, *overrides: str) -> subprocess.Popen[str]:
    """A run of `GRID` in a process of its own, on a cluster."""
    given = [f"cluster.address={address}", f"out={out}", f"name={name}", *GRID, *overrides]
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "run", "configs/demo.yaml", *given],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class SimulatedCluster:
    """A head without GPUs, and as many worker nodes as are added.

    Args:
        environment: variables of all nodes.
        head: what the head has: arguments of `ray.cluster_utils.Cluster.add_node`.
    """

    def __init__(self, environment: dict[str, str] | None = None, **head: Any) -> None:
        path = [str(REPO), os.environ.get("PYTHONPATH", "")]
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.simulated"],
            cwd=REPO,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path),
                **QUICK_HEALTH_CHECKS,
                "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
                **(environment or {}),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self.address: str = self._ask("head", **head)

    def _ask(self, verb: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([verb, arguments]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, Path(self._log.name).read_text()
        return json.loads(answer)

    def add(self, **node: Any) -> str:
        """Start a node; returns its id. Arguments are those of `ray.cluster_utils.Cluster.add_node`."""
        added: str = self._ask("add", **node)
        return added

    def kill(self, node: str) -> None:
        """Kill all processes of a node."""
        self._ask("kill", node=node)

    def kill_head(self) -> None:
        """Kill all processes of the head."""
        self._ask("kill_head")

    def free(self) -> dict[str, float]:
        """Resources that nobody has taken."""
        free: dict[str, float] = self._ask("free")
        return free

    def replicas(self) -> list[psutil.Process]:
        """Processes of replica actors, on all nodes."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "ReplicaActor" in " ".join(process.cmdline()[:1]):
                    found.append(process)
        return found

    def close(self) -> None:
        """End everything."""
        left = psutil.Process(self.process.pid).children(recursive=True)
        assert self.process.stdin is not None
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self._log.close()

    def __enter__(self) -> SimulatedCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    nodes: dict[str, Any] = {}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def head(**arguments: Any) -> str:
        given = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False, **arguments}
        cluster.add_node(**given)
        return str(cluster.address)

    def add(**arguments: Any) -> str:
        node = cluster.add_node(**{"num_cpus": 1, "object_store_memory": STORE_BYTES, **arguments})
        nodes[node.node_id] = node
        return str(node.node_id)

    def kill(node: str) -> None:
        cluster.remove_node(nodes.pop(node), allow_graceful=False)

    def kill_head() -> None:
        cluster.remove_node(cluster.head_node, allow_graceful=False)

    def free() -> dict[str, float]:
        return dict(cluster.global_state.available_resources())

    verbs = {"head": head, "add": add, "kill": kill, "kill_head": kill_head, "free": free}
    for line in sys.stdin:
        verb, arguments = json.loads(line)
        answers.write(json.dumps(verbs[verb](**arguments)) + "\n")
        answers.flush()
    for node in list(nodes):
        kill(node)


if __name__ == "__main__":
    _serve()
