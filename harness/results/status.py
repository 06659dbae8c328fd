"""How far a run is, from its directory alone: manifest, listing of parts, a few footers, end of the log.

Costs the same for ten parts and for ten thousand, but for the listing. Reads records only of parts
whose footers count failures; refuses to know Ray, models and figures.
"""

from __future__ import annotations

import fcntl
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.core.errors import RunDirError, did_you_mean
from harness.results import manifest as manifests
from harness.results.lock import LEASE_PREFIX, STALE_S
from harness.results.parts import checked
from harness.results.store import RunStore

MOST_FOOTERS = 100
"""Parts, newest first, whose footers are read."""
RATE_WINDOW_S = 300.0
"""The least time that a rate is taken over, where the session is old enough."""
RATE_ROUNDS = 4
"""Where units are long, the rate is taken over so many of them, one after another."""
SILENT_AFTER_S = 120.0
"""A driver that finishes units writes at least so often, unless its units are long."""
SILENT_ROUNDS = 3
"""Where units are long, silence of so many of them is still taken for work."""
LOADING_S = 600.0
"""A session without a part of its own may be loading its model: so long it may be silent."""
GONE_AFTER_S = 10.0
"""Silence after which lock and leases are looked at, to tell whether the driver is gone."""
READERS = 8
"""Footers read at a time: object stores answer slowly, but many at once."""
LOG_LINES = 8
LOG_TAIL_BYTES = 64 * 1024


class State(StrEnum):
    """What a run does."""

    RUNNING = "running"
    SILENT = "silent"
    """The manifest says that it runs, but nothing has been written for too long."""
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    COMPLETE = "complete"


@dataclass(frozen=True)
class Session:
    """One driver's stay."""

    started: str
    """UTC, ISO 8601."""
    ended: str | None
    """None while it goes on, and for a driver that was killed."""
    host: str | None
    """None in run directories of versions that did not record it."""


@dataclass(frozen=True)
class Rate:
    """Speed of the work, estimated from the times of parts and what their footers say."""

    units_per_s: float
    prompts_per_s: float
    tokens_per_s: float
    """Unique tokens: those that the models computed."""
    over_s: float
    """The time it was taken over; of a run that goes on, until now."""


@dataclass(frozen=True)
class Newest:
    """What the newest parts say, `MOST_FOOTERS` at most."""

    n_parts: int
    n_unreadable: int
    """Parts whose footer cannot be read; `harness run` computes them again."""
    n_records: int
    n_failed: int
    failures: Mapping[str, int]
    """Error type to failed records."""
    replicas: Mapping[str, int]
    """Replica to parts; empty where footers name none."""


@dataclass(frozen=True)
class RunStatus:
    """What a run directory tells of its run."""

    run_dir: str
    state: State
    quiet_s: float
    """Seconds since anything was written."""
    driver_gone: bool | None
    """Whether the driver has died without a word; None where this machine cannot know."""
    units_done: int
    units_total: int | None
    """None in run directories of versions that did not record it; so are the records."""
    records_done: int | None
    """None while no footer could be read."""
    records_exact: bool
    """Whether every part was counted; else the mean of the newest parts times the units."""
    records_total: int | None
    newest: Newest
    rate: Rate | None
    """The last one known; None before the first part of a session."""
    left_s: float | None
    """At this rate, of a run that goes on."""
    sessions: tuple[Session, ...]
    log_lines: tuple[str, ...]
    """The end of `run.log`; on object stores empty until the run ends."""


def read_status(run_dir: str, now_s: float | None = None) -> RunStatus:
    """How far a run is; it may be going on anywhere.

    Args:
        run_dir: a run directory, local or a storage URI.
        now_s: seconds since the epoch; the clock's by default.

    Raises:
        RunDirError: not a run directory, or its manifest is damaged.
    """
    return status_of(RunStore(run_dir), time.time() if now_s is None else now_s)


def status_of(store: RunStore, now_s: float) -> RunStatus:
    """See `read_status`."""
    manifest = manifests.read_manifest(store, "sessions", "status")
    sessions = tuple(Session(s["started"], s["ended"], s.get("host")) for s in manifest["sessions"])
    parts = _listing(store)
    footers = _footers(store, list(parts)[-MOST_FOOTERS:])
    read = [footer for footer in footers.values() if footer is not None]
    unit_s = sum(f["seconds"] for f in read) / len(read) if read else 0.0

    began_s = datetime.fromisoformat(sessions[-1].started).timestamp() if sessions else 0.0
    times = [t for t in parts.values() if t >= began_s]
    files = store.files()
    signs = [files.get(manifests.NAME, 0) / 1e9, files.get("run.log", 0) / 1e9, *list(parts.values())[-1:]]
    quiet_s = max(0.0, now_s - max(signs))
    gone = _driver_is_gone(store, sessions, files, now_s) if quiet_s > GONE_AFTER_S else None
    state = _state(store, manifest["status"], quiet_s, unit_s if times else None, gone is True)
    rate = _rate(times, read, unit_s, now_s if state is State.RUNNING else 0.0)

    done, total = len(parts), manifest.get("n_units")
    records, exact = _records(done, total, read, manifest.get("n_records"))
    left_s = None
    if state is State.RUNNING and rate is not None and total is not None:
        left_s = max(0, total - done) / rate.units_per_s
    return RunStatus(
        store.run_dir,
        state,
        quiet_s,
        gone,
        done,
        total,
        records,
        exact,
        manifest.get("n_records"),
        _newest(store, footers),
        rate,
        left_s,
        sessions,
        _log_tail(store),
    )


def _listing(store: RunStore) -> dict[str, float]:
    """Unit id to the time of its part, seconds since the epoch; oldest first."""
    parts = [(ns, name) for name, ns in store.files("parts").items() if name.endswith(".parquet")]
    return {name.removesuffix(".parquet"): ns / 1e9 for ns, name in sorted(parts)}


def _footers(store: RunStore, unit_ids: Sequence[str]) -> dict[str, dict[str, Any] | None]:
    """Unit id to what its part's footer says; None where it cannot be read."""

    def read(unit_id: str) -> dict[str, Any] | None:
        try:
            return checked(store.read_statistics(unit_id))
        except (OSError, ValueError, RunDirError):
            return None

    with ThreadPoolExecutor(READERS) as readers:
        return dict(zip(unit_ids, readers.map(read, unit_ids), strict=True))


def _newest(store: RunStore, footers: Mapping[str, dict[str, Any] | None]) -> Newest:
    read = {unit_id: footer for unit_id, footer in footers.items() if footer is not None}
    failures: Counter[str] = Counter()
    for unit_id, footer in read.items():
        if footer["n_failed"]:
            try:
                errors = store.read_part(unit_id, ["error_type"])["error_type"].to_pylist()
            except (ValueError, RunDirError):
                errors = ["unknown"] * footer["n_failed"]
            failures.update(error for error in errors if error is not None)
    return Newest(
        len(read),
        len(footers) - len(read),
        sum(footer["n_records"] for footer in read.values()),
        sum(footer["n_failed"] for footer in read.values()),
        dict(failures.most_common()),
        dict(sorted(Counter(footer["replica"] for footer in read.values() if footer.get("replica")).items())),
    )


def _records(
    done: int, total: int | None, read: Sequence[Mapping[str, Any]], records_total: int | None
) -> tuple[int | None, bool]:
    """Records committed, and whether all of them were counted."""
    if records_total is not None and done == total:
        return records_total, True
    counted = sum(footer["n_records"] for footer in read)
    if len(read) == done:
        return counted, True
    if not read:
        return None, False
    estimate = round(counted / len(read) * done)
    return estimate if records_total is None else min(estimate, records_total), False


def _state(store: RunStore, status: str, quiet_s: float, unit_s: float | None, gone: bool) -> State:
    """The manifest's word; while it says `running`, what was written must bear it out.

    Args:
        store: the run's.
        status: the manifest's.
        quiet_s: since anything was written.
        unit_s: mean length of a unit; None while the session has no part.
        gone: whether the driver is known to have died.
    """
    try:
        state = State(status)
    except ValueError:
        known = [s.value for s in State if s is not State.SILENT]
        raise RunDirError(
            f"'{store.run_dir}/{manifests.NAME}' has the status '{status}'{did_you_mean(status, known)}"
        ) from None
    if state is not State.RUNNING:
        return state
    most_s = LOADING_S if unit_s is None else max(SILENT_AFTER_S, SILENT_ROUNDS * unit_s)
    return State.SILENT if gone or quiet_s > most_s else State.RUNNING


def _rate(times: Sequence[float], read: Sequence[Mapping[str, Any]], unit_s: float, now_s: float) -> Rate | None:
    """Parts of the current driver that appeared in the window, times what the newest of them hold.

    The window begins before the driver's first part by the length of a unit, because that is when
    work began: counting from the part itself would take the first round of all replicas for an
    instant's work.

    Args:
        times: when the parts of the session appeared, in order, seconds since the epoch.
        read: footers of the newest parts.
        unit_s: mean length of a unit.
        now_s: seconds since the epoch; 0 for a run that has ended.
    """
    if not times or not read:
        return None
    end_s = max(now_s, times[-1])
    start_s = max(end_s - max(RATE_WINDOW_S, RATE_ROUNDS * unit_s), times[0] - unit_s)
    over_s = max(end_s - start_s, 1e-3)
    units = sum(t > start_s for t in times) / over_s
    if units == 0:
        return None
    prompts, tokens = (sum(f[name] for f in read) / len(read) for name in ("n_prompts", "tokens_computed"))
    return Rate(units, units * prompts, units * tokens, over_s)


def _driver_is_gone(
    store: RunStore, sessions: Sequence[Session], files: Mapping[str, int], now_s: float
) -> bool | None:
    """Whether nobody holds the run directory of a session that was never ended.

    A lease tells every machine; the lock only the one that the driver ran on, because not every
    network file system passes on locks.

    Args:
        store: the run's.
        sessions: the manifest's.
        files: the run directory's files and their times, in nanoseconds.
        now_s: seconds since the epoch.
    """
    if not sessions or sessions[-1].ended:
        return None
    leases = [ns / 1e9 for name, ns in files.items() if name.startswith(LEASE_PREFIX)]
    if leases:
        return now_s - max(leases) > STALE_S
    if not store.is_local or sessions[-1].host != platform.node():
        return None
    try:
        # A pipe in its place would keep whoever opens it waiting.
        with open(os.open(store.path("run.lock"), os.O_RDONLY | os.O_NONBLOCK)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _log_tail(store: RunStore) -> tuple[str, ...]:
    """The last lines for people; the lines that tell of single units are for programs."""
    try:
        if store.is_local and not Path(store.path("run.log")).is_file():
            return ()
        with store.fs.open_input_file(store.path("run.log")) as file:
            file.seek(max(0, file.size() - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    return tuple([line for line in text.splitlines() if ' INFO {"unit":' not in line][-LOG_LINES:])
