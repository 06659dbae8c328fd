"""The clock of a measurement."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

Clock = Callable[[], float]
"""Seconds since some moment, when all that was asked of the device is done."""
CLOCKS = ("wall", "processor")


def make_clock(kind: str, device: str) -> Clock:
    """One of `CLOCKS`.

    Args:
        kind: `processor` counts the seconds that this process computed, over all its threads: for machines
            that do other work besides. With one thread on an idle machine both are the same.
        device: `cuda` waits for the GPU.
    """
    if device == "cuda":
        return _waiting
    return time.process_time if kind == "processor" else time.perf_counter


def _waiting() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()
