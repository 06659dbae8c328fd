"""A limit of time for what somebody else wrote: a pattern, a template. Refuses to know what is limited."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def can_limit() -> bool:
    """Whether this thread can be interrupted: signals reach the main thread alone."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let a signal of the clock end the block; in other threads than the main one there is no limit.

    Raises:
        TimeoutError: it took too long.
    """
    if not can_limit():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it does not come to an end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
