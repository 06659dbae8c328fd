"""The driver's end of the process that holds wandb: two threads, one that feeds it and one that listens.

The driver hands over rows and tables; a thread writes them to `harness.reporting.tracking.process`, the only one
that imports wandb.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd

from harness.config.schema import WandbConfig
from harness.core.places import SOURCE
from harness.reporting.tracking.tables import (
    Facts,
    Frame,
    cells_message,
    charts_message,
    row_message,
    samples_message,
    summary_message,
    table_message,
)
from harness.results.store import RunStore

log = logging.getLogger(__name__)
PROGRESS_EVERY_S = 15.0
FILES = ("manifest.json", "cells.parquet", "parts")
NOT_INHERITED = (
    "WANDB_SERVICE", "WANDB_MODE", "WANDB_DISABLED", "WANDB_SILENT", "WANDB_QUIET", "WANDB_RUN_ID", "WANDB_RESUME",
    "WANDB_NAME",
)  # fmt: skip
"""Settings of somebody else's run; what concerns this one stands in the configuration."""


@dataclass(frozen=True)
class Bounds:
    """How long anything may take; the driver waits at its end only, `upload_s + grace_s` at most."""

    connect_s: float = 20.0
    """Silence of the server after which it is said that there is trouble."""
    unreached_s: float = 10.0
    """Wait at the end for a server that has not answered once, and when a run was stopped."""
    upload_s: float = 30.0
    """Wait at the end for the upload."""
    grace_s: float = 10.0
    """Wait for the process to close its log; then it is killed."""


def wandb_id(grid_id: str) -> str:
    """What W&B calls the run of a run directory."""
    return re.sub(r"[^\w.-]", "-", grid_id)[:64]


class ProcessTracker:
    """A `Tracker` that logs through a process of its own; two daemon threads stand between.

    Args:
        settings: the `wandb` section of the configuration.
        grid_id: the same text in every session of a run directory.
        config: the resolved configuration.
        run_dir: a local path or a storage URI.
        cells_before: cells that earlier sessions have finished.
        bounds: of waiting.
    """

    def __init__(
        self,
        settings: WandbConfig,
        grid_id: str,
        config: Mapping[str, Any],
        run_dir: str,
        cells_before: int,
        bounds: Bounds,
    ) -> None:
        self._settings, self._bounds, self._run_dir = settings, bounds, run_dir
        self._run_id = wandb_id(grid_id)
        self._opening = {
            **asdict(settings),
            **asdict(bounds),
            "run_id": self._run_id,
            "name": config.get("name"),
            "config": json.loads(json.dumps(config, default=str)),
        }
        self._cells = cells_before
        self._progress_at = -math.inf
        self._messages: queue.SimpleQueue[Callable[[], dict[str, Any]]] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._path: str | None = None
        self._url: str | None = None
        self._uploaded = self._troubled = False

    def cell_finished(self, row: Facts) -> None:
        """Queue a row of the history."""
        self._cells += 1
        index = self._cells

        def message() -> dict[str, Any]:
            figures = row() if callable(row) else row
            return row_message("cell", {"index": index, **figures})

        self._messages.put(message)

    def progress(
        self,
        units_done: int,
        units_total: int | None,
        prompts_per_s: float,
        unique_tokens_per_s: float,
        gpu_memory_bytes: int | None = None,
    ) -> None:
        """Queue how far the run is; at most once in `PROGRESS_EVERY_S`, and when the last unit is done."""
        now = time.monotonic()
        if now - self._progress_at < PROGRESS_EVERY_S and units_done != units_total:
            return
        self._progress_at = now
        figures = {
            "units_done": units_done,
            "units_total": units_total,
            "prompts_per_s": prompts_per_s,
            "unique_tokens_per_s": unique_tokens_per_s,
            "gpu_memory_bytes": gpu_memory_bytes,
        }
        self._messages.put(lambda: row_message("progress", figures))

    def finish(
        self,
        cells: pd.DataFrame,
        *,
        pairs: Frame | None = None,
        records: Frame | None = None,
        summary: Facts | None = None,
        files: Sequence[str] = FILES,
    ) -> None:
        """Queue the results of the whole run."""
        # What may take long to make comes last: it must not cost the rest when time is up.
        self._messages.put(lambda: cells_message(cells))
        self._messages.put(lambda: charts_message(cells))
        message = {"kind": "files", "run_dir": self._run_dir, "run_id": self._run_id, "names": list(files)}
        self._messages.put(lambda: message)
        if records is not None:
            self._messages.put(lambda: samples_message(records))
        if pairs is not None:
            self._messages.put(lambda: table_message("paired_differences", pairs))
        if summary is not None:
            self._messages.put(lambda: summary_message(summary))

    def __enter__(self) -> Self:
        try:
            store = RunStore(self._run_dir)
            # Files that a later `wandb sync` needs must outlive this process wherever they are.
            root = Path(store.root if store.is_local else tempfile.mkdtemp(prefix="harness-wandb-")).absolute()
            self._opening["root"] = str(root)
            self._process = _start(root)
        except OSError as error:
            self._trouble(f"its process cannot be started: {error}")
            return self
        self._messages.put(lambda: {"kind": "open", **self._opening})
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()
        threading.Thread(target=self._feed, args=(self._process,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        upload_s = self._bounds.upload_s if kind is None else min(self._bounds.unreached_s, self._bounds.upload_s)
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        exit_code = 0 if kind is None else 130 if stopped else 1
        self._messages.put(lambda: {"kind": "close", "exit_code": exit_code, "upload_s": upload_s})
        try:
            self._process.wait(upload_s + self._bounds.grace_s)
        except subprocess.TimeoutExpired:
            self._trouble("its process does not end")
        finally:
            # Not only the process: its upload would outlive it.
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._listener.join(1.0)
            self._say_where()

    def _say_where(self) -> None:
        if self._uploaded:
            log.info("W&B has everything: %s", self._url)
        elif self._path is None:
            log.warning("W&B: nothing was logged; what wandb said is in %s/wandb/process.log", self._opening["root"])
        elif self._settings.mode == "offline":
            log.info("W&B log kept offline; to upload it: wandb sync %s", shlex.quote(self._path))
        else:
            log.warning("W&B does not have everything; to upload it: wandb sync %s", shlex.quote(self._path))

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        """Build messages and write them, until the last or until nobody reads them any more."""
        assert process.stdin is not None
        kind = None
        with suppress(OSError), process.stdin:
            while kind != "close":
                make = self._messages.get()
                try:
                    message = make()
                    line = json.dumps(message, allow_nan=False)
                except Exception as error:
                    self._trouble(f"figures left out: {type(error).__name__}: {error}")
                    continue
                kind = message["kind"]
                process.stdin.write(line.encode() + b"\n")
                process.stdin.flush()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                event = json.loads(line)
                kind = event["kind"]
                if kind == "log":
                    self._path = event["path"]
                elif kind == "online":
                    self._url = event["url"]
                    log.info("W&B: %s", self._url)
                elif kind == "trouble":
                    self._trouble(event["reason"])
                elif kind == "closed":
                    self._uploaded = event["uploaded"]
                    return
                else:
                    raise ValueError(f"unknown event '{kind}'")
        self._trouble("its process ended early")

    def _trouble(self, reason: str) -> None:
        """Say it once; what follows from it is for the log's readers who ask for details."""
        key = os.environ.get("WANDB_API_KEY")
        text = reason.replace(key, "***") if key else reason
        level = logging.DEBUG if self._troubled else logging.WARNING
        self._troubled = True
        kept = f", its W&B log is kept in {self._path}" if self._path else ""
        log.log(level, "W&B: %s; the run is not affected%s", text, kept)


def _start(root: Path) -> subprocess.Popen[bytes]:
    """The process, with wandb's files under `root/wandb` and in a group of its own.

    Its own group keeps Ctrl-C from it: the driver decides what happens then.
    """
    folder = root / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    environment.setdefault("WANDB_ERROR_REPORTING", "false")
    environment |= {
        "WANDB_DIR": str(root),
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_CACHE_DIR": str(folder / "cache"),
        # Else wandb logs the host's name and the command of its own upload.
        "WANDB_HOST": "",
        "WANDB_PROGRAM": "harness",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(SOURCE), environment.get("PYTHONPATH")])),
    }
    with (folder / "process.log").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "harness.reporting.tracking.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
