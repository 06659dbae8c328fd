"""One driver at a time on a run directory."""

from __future__ import annotations

import fcntl
import os
from types import TracebackType
from typing import IO

from harness.errors import RunDirError
from harness.results.store import RunStore


class RunLock:
    """Holds the run directory while the driver lives.

    The operating system frees the lock when the driver ends, however it ends. Storage other
    than a local disk has no such locks: there, content-addressed parts keep two drivers from
    harming each other.
    """

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._file: IO[str] | None = None

    def __enter__(self) -> RunLock:
        if not self._store.is_local:
            return self
        path = self._store.path("run.lock")
        file = open(path, "a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise RunDirError(
                f"the run directory '{self._store.run_dir}' is in use by another driver (process {holder}); "
                "wait for it, stop it, or set another name=..."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
