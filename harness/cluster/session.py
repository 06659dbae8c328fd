"""Starts or joins Ray, and decides how many replicas of which size fit.

Local mode starts a private Ray (`harness.cluster.private`), and ends it with the driver.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import services, worker

from harness.cluster import private
from harness.config.schema import RunConfig
from harness.core.errors import ClusterError, ClusterLostError
from harness.core.escaping import one_line
from harness.engine.protocol import Resources

HEAD_PATIENCE_S = 30.0
"""How long the head may be away; Ray's own patience is 60 s (`gcs_rpc_server_reconnect_timeout_s`)."""
TYPE_PREFIX = "accelerator_type:"
"""How Ray names the resource of a node with GPUs of a type."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplicaShape:
    """How many replicas, and what each takes."""

    count: int
    gpus: float
    cpus: float
    threads: int | None
    """CPU threads of a replica's process; None leaves torch's choice (GPU replicas)."""


@contextmanager
def ray_session(address: str) -> Iterator[None]:
    """Ray for the length of a run.

    Args:
        address: `local` starts one; `auto`, `host:port` or `ray://...` joins one.

    Raises:
        ClusterError: no cluster answers there.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if ray.is_initialized():
        yield
        return
    check_listening(address)
    with private.private_token() if address == "local" else nullcontext(), _messages_in_the_log():
        _start(address)
        try:
            yield
        except ClusterLostError:
            raise  # Ray's own farewell would wait for the head, and end the process when that is in vain.
        except BaseException:
            ray.shutdown()
            raise
        ray.shutdown()


@contextmanager
def _messages_in_the_log() -> Iterator[None]:
    """Ray prints its own troubles to standard output, a dead raylet's with pages of its log: one line each instead."""

    def tell(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        log.warning("Ray: %s", one_line(" ".join(data["lines"]), 200))

    before = worker.print_to_stdstream
    worker.print_to_stdstream = tell
    try:
        yield
    finally:
        worker.print_to_stdstream = before


def _start(address: str) -> None:
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address == "local":
            private.start()
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        # `ray.init` puts its own SIGTERM handler, which exits at once, in the place of the run's.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    except SystemExit:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
        if callable(on_sigterm):
            on_sigterm(signal.SIGTERM, None)
        raise SystemExit(128 + signal.SIGTERM) from None
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        if address == "local":
            raise ClusterError(
                f"Ray does not start on this machine: {reason}; cluster.address=inline runs without Ray"
            ) from None
        raise ClusterError(
            f"no Ray cluster at cluster.address='{address}': {reason}; "
            "start one with `ray start --head`, or use cluster.address=local"
        ) from None


def check_listening(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would try it for minutes.

    Args:
        address: as of `ray_session`.

    Raises:
        ClusterError: no cluster answers there.
    """
    if address == "local" or ray.is_initialized():
        return
    named = f"cluster.address='{address}'"
    found = address
    if address == "auto":
        services.find_gcs_addresses.cache_clear()  # type: ignore[attr-defined]
        try:
            found = services.get_ray_address_from_environment("auto", None)
        except ConnectionError:
            raise ClusterError(
                f"no Ray cluster for {named}: no Ray runs on this machine, and RAY_ADDRESS is not set; "
                "start one with `ray start --head`, or use cluster.address=local"
            ) from None
        source = "of RAY_ADDRESS" if os.environ.get("RAY_ADDRESS") else "where Ray ran last"
        named = f"{named}, which is {found} {source}"
    error = connection_error(found.removeprefix("ray://"))
    if error is not None:
        raise ClusterError(
            f"no Ray cluster at {named}: {error}; give the head's host:port, "
            "start one with `ray start --head`, or use cluster.address=local"
        )


def connection_error(address: str) -> Exception | None:
    """Why nothing listens at `host:port`; None when something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        return error
    return None


def own_raylet() -> str | None:
    """`host:port` of the raylet of the node that this process is on."""
    mine = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["NodeID"] == mine]
    return f"{nodes[0]['NodeManagerAddress']}:{nodes[0]['NodeManagerPort']}" if nodes else None


def live_nodes() -> dict[str, Mapping[str, float]]:
    """Node id to resources, of the nodes that are alive."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def room_on_gpus(config: RunConfig, share: float, nodes: Iterable[Mapping[str, float]]) -> int:
    """Replicas that fit on the nodes' GPUs: a replica's GPUs are all of one node, a fraction is of one GPU.

    Args:
        config: the run's settings.
        share: GPUs of a replica.
        nodes: the resources of each node.
    """
    gpus = [node.get("GPU", 0.0) for node in _of_type(config, nodes)]
    return sum(int(n // share) if share >= 1 else int(n) * int(1 / share + 1e-9) for n in gpus)


class Head:
    """The cluster's head and the driver's own node, as far as a driver must know them.

    Ray ends a process that cannot reach the head for a minute, or whose node's raylet is gone for ten seconds,
    without a word to its caller. Whoever asks `answers` now and then comes before that.

    Args:
        address: `host:port` of Ray's control store.
        patience_s: how long it may be away, restarting.
        clock: seconds.
        raylet: `host:port` of the node's raylet, which never restarts.
    """

    def __init__(
        self,
        address: str,
        patience_s: float = HEAD_PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        raylet: str | None = None,
    ) -> None:
        self._address, self._patience_s, self._clock = address, patience_s, clock
        self._raylet = raylet if raylet is not None and connection_error(raylet) is None else None
        self._seen = clock()
        # Clients outside of the cluster (`ray://`) have never seen it: they are told by their proxy.
        self._is_seen = connection_error(address) is None
        self.is_lost = False

    def answers(self) -> bool:
        """Whether it can be asked anything now.

        Raises:
            ClusterLostError: it has been away for too long, or the raylet is gone.
        """
        if self._raylet is not None and isinstance(connection_error(self._raylet), ConnectionRefusedError):
            self.is_lost = True
            raise ClusterLostError(
                f"Ray's raylet on this node ({self._raylet}) is gone, and with it the replicas here; committed work is "
                "kept, run the same command again, it goes on where it stopped"
            )
        error = connection_error(self._address) if self._is_seen else None
        if error is None:
            self._seen = self._clock()
            return True
        away_s = self._clock() - self._seen
        if away_s > self._patience_s:
            self.is_lost = True
            raise ClusterLostError(
                f"the cluster's head at {self._address} has not answered for {away_s:.0f} s ({error}); committed work "
                "is kept, start the cluster again and run the same command, it goes on where it stopped"
            )
        return False


def can_hold(config: RunConfig, shape: ReplicaShape, node: Mapping[str, float]) -> bool:
    """Whether a node with these resources has room for a replica, were nothing else on it."""
    enough = node.get("GPU", 0.0) >= shape.gpus and node.get("CPU", 0.0) >= shape.cpus
    return enough and bool(_of_type(config, [node]))


def choose_shape(config: RunConfig, resources: Resources, nodes: Iterable[Mapping[str, float]]) -> ReplicaShape:
    """Replicas that fit the cluster.

    Args:
        config: the run's settings.
        resources: what a replica takes.
        nodes: the resources of each node.

    Raises:
        ClusterError: more GPUs are asked for than there are.
    """
    of_type = _of_type(config, nodes)
    gpus = sum(node.get("GPU", 0.0) for node in of_type)
    wanted, per_replica = config.cluster.chosen_replicas, resources.gpus
    kind = config.cluster.accelerator_type
    if kind is not None and not of_type:
        raise ClusterError(f"no node has cluster.accelerator_type '{kind}'; `harness cluster check` shows the types")
    if resources.device == "cuda" and gpus == 0:
        raise ClusterError("model.device is 'cuda', but the cluster has no GPU; use model.device=auto or cpu")
    if resources.device == "cpu" or gpus == 0 or per_replica == 0:
        return _shape_on_cpus([node["CPU"] for node in of_type if node.get("CPU", 0.0) > 0] or [1.0], wanted)
    fits = room_on_gpus(config, per_replica, of_type)
    count = fits if wanted is None else wanted
    if count > fits or fits == 0:
        raise ClusterError(
            f"{count or 1} replicas of {per_replica:g} GPUs need {(count or 1) * per_replica:g}, "
            f"but the cluster has {gpus:g}{f' of type {kind}' if kind else ''}, room for {fits}; "
            "lower cluster.replicas or model.gpus_per_replica"
        )
    return ReplicaShape(count, per_replica, 0, None)


def _of_type(config: RunConfig, nodes: Iterable[Mapping[str, float]]) -> list[Mapping[str, float]]:
    kind = config.cluster.accelerator_type
    return [node for node in nodes if kind is None or f"{TYPE_PREFIX}{kind}" in node]


def _shape_on_cpus(cpus: Sequence[float], wanted: int | None) -> ReplicaShape:
    """The largest whole number of CPUs with which so many replicas fit, or a fraction of one.

    Args:
        cpus: of each node that has any.
        wanted: replicas; None for one per node.
    """
    count = len(cpus) if wanted is None else wanted
    for share in range(int(sum(cpus) / count), 0, -1):
        if sum(int(n // share) for n in cpus) >= count:
            return ReplicaShape(count, 0, float(share), share)
    return ReplicaShape(count, 0, 1 / math.ceil(count / max(1, int(sum(cpus)))), 1)
