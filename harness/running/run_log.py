"""The log of a run in its directory, `run.log`."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.core.errors import Interrupted, RunDirError, StorageError, UserError
from harness.reporting.console import SafeFormatter
from harness.results.store import RunStore

log = logging.getLogger(__name__)
unit_log = logging.getLogger("harness.units")
"""One JSON line per finished unit, for `run.log` alone."""
unit_log.propagate = False


class _RunLog(logging.FileHandler):
    """A log that a full disk may cut off, but that stops no run."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Lines that cannot be written are lost; committing records tells of the disk."""

    def close(self) -> None:
        """Close, whatever the disk says."""
        with suppress(OSError):
            super().close()


@contextmanager
def log_file(store: RunStore) -> Iterator[None]:
    """Write the harness's log to `run.log`; on object stores, when the run ends."""
    logger = logging.getLogger("harness")
    buffer = io.StringIO()
    handler: logging.Handler
    if store.is_local and Path(store.path("run.log")).is_fifo():
        raise RunDirError(f"'{store.run_dir}/run.log' is a pipe, expected a file that you may write: remove it")
    if store.is_local:
        try:
            handler = _RunLog(store.path("run.log"), encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise RunDirError(
                f"'{store.run_dir}/run.log' cannot be written: {error.strerror}; expected a file that you may write: "
                "remove it, or set another name=..."
            ) from None
    else:
        handler = logging.StreamHandler(buffer)
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    unit_log.addHandler(handler)
    try:
        yield
    except (UserError, Interrupted):
        raise
    except BaseException as error:
        text = f"stopped: {type(error).__name__}: {error}"
        handler.handle(logging.LogRecord(log.name, logging.ERROR, __file__, 0, text, None, None))
        raise
    finally:
        logger.removeHandler(handler)
        unit_log.removeHandler(handler)
        handler.close()
        if not store.is_local:
            try:
                before = store.read_bytes("run.log") if store.exists("run.log") else b""
                store.write_bytes("run.log", before + buffer.getvalue().encode(errors="backslashreplace"))
            except (RunDirError, StorageError) as error:
                log.warning("the log is lost, the records are not: %s", error)
