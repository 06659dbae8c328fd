"""Starts or joins Ray, and decides how many replicas of which size fit.

Local mode starts a private Ray without a dashboard and with a small object store, and ends it
with the driver.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from harness.config import RunConfig
from harness.errors import ClusterError

OBJECT_STORE_BYTES = 256 * 2**20
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
    _check_listening(address)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address == "local":
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ClusterError(
            f"no Ray cluster at cluster.address='{address}': {reason}; "
            "start one with `ray start --head`, or use cluster.address=local"
        ) from None
    # `ray.init` puts its own SIGTERM handler, which exits at once, in the place of the run's.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _check_listening(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would try it for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster at cluster.address='{address}': {error}; give the head's host:port, "
            "start one with `ray start --head`, or use cluster.address=local"
        ) from None


def choose_shape(config: RunConfig, resources: dict[str, float]) -> ReplicaShape:
    """Replicas that fit the cluster.

    Args:
        config: the run's settings.
        resources: `ray.cluster_resources()`.

    Raises:
        ClusterError: more GPUs are asked for than there are.
    """
    gpus, cpus = resources.get("GPU", 0.0), max(1.0, resources.get("CPU", 1.0))
    wanted, per_replica = config.cluster.replicas, config.model.gpus_per_replica
    if config.model.device == "cuda" and gpus == 0:
        raise ClusterError("model.device is 'cuda', but the cluster has no GPU; use model.device=auto or cpu")
    if config.model.device == "cpu" or gpus == 0:
        nodes = sum(name.startswith("node:") and name != "node:__internal_head__" for name in resources)
        count = max(1, nodes) if wanted == "auto" else int(wanted)
        share = cpus / count
        return ReplicaShape(count, 0, float(int(share)) if share >= 1 else share, max(1, int(share)))
    fits = int(gpus // per_replica) if per_replica >= 1 else int(gpus) * int(1 // per_replica)
    count = fits if wanted == "auto" else int(wanted)
    if count > fits or fits == 0:
        raise ClusterError(
            f"{count or 1} replicas of {per_replica:g} GPUs need {(count or 1) * per_replica:g}, "
            f"but the cluster has {gpus:g}; lower cluster.replicas or model.gpus_per_replica"
        )
    return ReplicaShape(count, per_replica, 0, None)
