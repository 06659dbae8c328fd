"""The private Ray of `cluster.address=local`: on the loopback, with a token that the owner alone can read."""

from __future__ import annotations

import logging
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import ray
from ray._private import ray_constants

OBJECT_STORE_BYTES = 256 * 2**20
MODE, PATH, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN"
"""Environment variables by which Ray is told of its token."""


@contextmanager
def private_token() -> Iterator[None]:
    """See that Ray finds a token in `~/.ray/auth_token` that nobody else can read.

    Ray 2.60 would make it with what the umask leaves. Where the home cannot be written, the token is in this
    process's environment as long as the context lasts. What the user set by environment variables stays.
    """
    if os.environ.get(MODE, "token").lower() != "token" or TOKEN in os.environ or PATH in os.environ:
        yield
        return
    try:
        _keep_token(Path.home() / ".ray" / "auth_token")
    except (OSError, RuntimeError):
        os.environ[TOKEN] = secrets.token_hex(32)
        try:
            yield
        finally:
            os.environ.pop(TOKEN, None)
    else:
        yield


def _keep_token(path: Path) -> None:
    """Make the file, or take other people's rights to it away."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        if not path.exists():
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
            with suppress(FileExistsError):  # another run was faster: its token counts
                os.link(new, path)
    finally:
        new.unlink(missing_ok=True)
    found = path.stat()
    if found.st_uid == os.geteuid() and found.st_mode & 0o077:
        path.chmod(0o600)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray take the loopback for its node's address, and so listen there alone.

    This is what Ray does where it knows no clusters (macOS, Windows); `_node_ip_address="127.0.0.1"` it would
    turn into the machine's address.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _without_sighup() -> Iterator[None]:
    """Keep SIGHUP from Ray's processes, as Ray keeps SIGINT: a closed terminal stops the run, which ends them.

    One that comes meanwhile reaches this process afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _whole_or_not_at_all() -> Iterator[None]:
    """End the processes of a start that is given up: `ray.shutdown` does not know them yet."""
    me = psutil.Process()
    before = set(me.children(recursive=True))
    try:
        yield
    except BaseException:
        begun = [child for child in me.children(recursive=True) if child not in before]
        for child in begun:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(begun, timeout=1)
        raise


def start() -> None:
    """Start Ray without a dashboard and with a small object store; it ends with this process."""
    with _whole_or_not_at_all(), _without_sighup(), _on_loopback():
        ray.init(
            address="local",
            include_dashboard=False,
            dashboard_host="127.0.0.1",
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
