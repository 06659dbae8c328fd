"""Ctrl-C, SIGTERM and SIGHUP: stop soon, keep what is committed."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from harness.core.errors import Interrupted

log = logging.getLogger(__name__)


@dataclass
class StopFlag:
    """Set by SIGINT, SIGTERM or SIGHUP.

    While `polled`, the loop in charge looks at `is_set` twice a second; else the signal raises
    `Interrupted` at once. A second signal ends the process without waiting for anything.
    """

    polled: bool = False
    signal: int | None = None
    _event: threading.Event = field(default_factory=threading.Event)

    def is_set(self) -> bool:
        """Whether the user asked to stop."""
        return self._event.is_set()

    def handle(self, number: int, frame: Any) -> None:
        """The signal handler."""
        if self._event.is_set():
            os._exit(128 + number)
        self.signal = number
        self._event.set()
        if not self.polled:
            raise Interrupted(number)


_END = b"\0"
"""No signal."""


@contextmanager
def stoppable() -> Iterator[StopFlag]:
    """Turn SIGINT, SIGTERM and SIGHUP (a closed terminal) into a stop.

    Outside the main thread signals are left alone, and so is a SIGHUP that `nohup` ignores.
    """
    stop = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop.handle) for number in numbers}
    try:
        with _told_at_once(numbers):
            yield stop
    except Interrupted:
        raise Interrupted(stop.signal or signal.SIGINT) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _told_at_once(numbers: Sequence[int]) -> Iterator[None]:
    """Log that the run stops when the first of these signals comes, however long its handler has to wait.

    Handlers run between two steps of the interpreter, and a forward pass is one. The interpreter writes the number of
    a signal into a pipe right away; a thread reads it.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def tell() -> None:
        while (number := os.read(reading, 1)) not in (b"", _END):
            if number[0] in numbers:
                log.info("stopping, keeping what is done; once more ends it at once")
                break

    thread = threading.Thread(target=tell, name="tells of signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writing, _END)
        thread.join()
        os.close(writing)
        os.close(reading)


def leave(status: int) -> NoReturn:
    """End the process of a stopped run at once.

    Everything of the run is closed by then; tearing down the interpreter with Ray and torch in it
    would take another two seconds.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the terminal is closed
            stream.flush()
    os._exit(status)
