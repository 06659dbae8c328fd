"""The device that is measured, and the sizes that fit it: a GPU's, or tiny ones where there is none."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda:0" if CUDA else "cpu")


@dataclass(frozen=True)
class Sizes:
    """How much is computed.

    Attributes:
        dtype: of the models that are timed.
        neox, llama: names of their shapes in `tests.gpu.large`.
        tokens_per_pack: None leaves the choice to the engine.
        samples: reviews of the lecture's grid.
        shard: reviews of a unit.
        seeds: of the grid.
        reviews: of the grid that contenders are compared on.
        questions, new_tokens: of decoding.
        product: rows and columns of the square matrices whose product is timed.
        copied: bytes of a timed copy.
        seconds: of a contender that is timed on a part.
        repeats: of what is timed; the median counts.
        grid: queries per K of random grids.
    """

    dtype: torch.dtype
    neox: str
    llama: str
    tokens_per_pack: int | None
    samples: int
    shard: int
    seeds: tuple[int, ...]
    reviews: int
    questions: int
    new_tokens: int
    product: int
    copied: int
    seconds: float
    repeats: int
    grid: int


GPU = Sizes(torch.bfloat16, "1.3b", "8b", None, 900, 256, (1, 2), 500, 96, 32, 8192, 2**31, 3.0, 3, 40)
CPU = Sizes(torch.float32, "tiny", "tiny", 256, 6, 4, (1, 2), 3, 3, 4, 128, 2**20, 0.05, 1, 1)
SIZES = GPU if CUDA else CPU


def wait() -> None:
    """Until the device has done all it was asked for."""
    if CUDA:
        torch.cuda.synchronize()


def now() -> float:
    """Seconds since some moment, when the device is done."""
    wait()
    return time.perf_counter()


def seconds_of(function: Callable[[], object], repeats: int = 5) -> float:
    """Median time of a call, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        started = now()
        function()
        times.append(now() - started)
    return median(times)


def free_memory() -> None:
    """Give back what nothing holds, and count the peak anew."""
    gc.collect()
    if CUDA:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """Most that torch allocated on the device since `free_memory`; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() if CUDA else 0


def is_broken() -> bool:
    """Whether the device has stopped to answer, as after a fault of a kernel."""
    try:
        free_memory()
        return float(torch.zeros(8, device=DEVICE).sum()) != 0.0
    except RuntimeError:
        return True
