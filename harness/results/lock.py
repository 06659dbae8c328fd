"""One driver at a time on a run directory: the system's lock locally, a lease elsewhere."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from types import TracebackType

from harness.core.errors import HarnessError, RunDirError
from harness.results.store import RunStore

log = logging.getLogger(__name__)
BEAT_S = 30.0
"""How often a driver renews its lease."""
STALE_S = 120.0
"""Age at which a lease counts for nothing."""
LEASE_PREFIX = "lease-"
IN_USE_ERRNOS = frozenset({errno.EAGAIN, errno.EACCES})


class RunLock:
    """Holds the run directory while the driver lives.

    On local disks the operating system's lock on `run.lock`, which ends with the driver however
    that ends. On other storage, and on file systems without locks, a lease; see `_lease`.

    Args:
        store: of the run directory, which exists.
        beat_s: seconds between renewals of a lease.
        stale_s: seconds after which a lease that was not renewed counts for nothing.
    """

    def __init__(self, store: RunStore, beat_s: float = BEAT_S, stale_s: float = STALE_S) -> None:
        self._store, self._beat_s, self._stale_s = store, beat_s, stale_s
        self._held = ExitStack()

    def __enter__(self) -> RunLock:
        if self._store.is_local:
            try:
                self._held.enter_context(_file_lock(self._store))
                return self
            except OSError as error:
                log.info("'%s' has no file locks (%s); taking a lease instead", self._store.run_dir, error.strerror)
        self._held.enter_context(_lease(self._store, self._beat_s, self._stale_s))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()


def _refusal(store: RunStore, holder: str, advice: str) -> RunDirError:
    return RunDirError(
        f"the run directory '{store.run_dir}' is in use by another driver ({holder}); "
        f"wait for it, stop it, or set another name=...{advice}"
    )


@contextmanager
def _file_lock(store: RunStore) -> Iterator[None]:
    with open(store.path("run.lock"), "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in IN_USE_ERRNOS:
                raise
            file.seek(0)
            raise _refusal(store, f"process {file.read().strip() or 'unknown'}", "") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def _lease(store: RunStore, beat_s: float, stale_s: float) -> Iterator[None]:
    """A file per driver, renewed while it lives.

    `pyarrow.fs` has no put under a condition, so nobody can be first on one common file. Instead each
    driver writes a file of its own and then looks for those of others: where a write is
    seen by every later listing (S3, Google Cloud Storage and HDFS promise that), of two drivers at
    least one sees the other and goes. Two that start within the same second may both go.

    Ages are differences of modification times that the storage itself has set; clocks of hosts
    play no part.
    """
    name = f"{LEASE_PREFIX}{uuid.uuid4().hex[:12]}.json"
    _renew(store, name)
    ended = threading.Event()
    beating = threading.Thread(target=_keep_renewing, args=(store, name, beat_s, ended), daemon=True)
    try:
        _refuse_beside_others(store, name, stale_s)
        beating.start()
        yield
    finally:
        ended.set()
        if beating.is_alive():
            beating.join()
        try:
            store.remove(name)
        except HarnessError as error:
            log.warning("%s; this driver's lease ends by itself in %.0f s", error, stale_s)


def _renew(store: RunStore, name: str) -> None:
    """Put the lease; its time for people, the storage's modification time for other drivers."""
    beat = datetime.now(UTC).isoformat(timespec="seconds")
    store.write_json(name, {"host": platform.node(), "pid": os.getpid(), "heartbeat": beat})


def _refuse_beside_others(store: RunStore, name: str, stale_s: float) -> None:
    leases = {other: ns for other, ns in store.files().items() if other.startswith(LEASE_PREFIX)}
    if name not in leases:
        raise RunDirError(
            f"'{store.run_dir}' does not list a file that was just written, so drivers could not see each other; "
            "set out=... to a storage with consistent listings"
        )
    for other, renewed_ns in leases.items():
        age_s = (leases[name] - renewed_ns) / 1e9
        if other == name:
            continue
        if age_s > stale_s:
            log.warning("the lease of a driver that ended without a word %.0f s ago is removed", age_s)
            store.remove(other)
            continue
        advice = f"; when it was killed, its lease ends in {max(0.0, stale_s - age_s):.0f} s"
        raise _refusal(store, f"{_holder(store, other)}, last seen {max(0.0, age_s):.0f} s ago", advice)


def _holder(store: RunStore, name: str) -> str:
    try:
        lease = json.loads(store.read_bytes(name))
        return f"process {lease['pid']} on {lease['host']}"
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return "process unknown"


def _keep_renewing(store: RunStore, name: str, beat_s: float, ended: threading.Event) -> None:
    while not ended.wait(beat_s):
        try:
            if name not in store.files():
                log.error(
                    "'%s': this driver could not renew its lease in time and another driver has removed it; both now "
                    "do the same work, stop one of them",
                    store.run_dir,
                )
                return
            _renew(store, name)
        except HarnessError as error:
            log.warning("the lease was not renewed: %s", error)
