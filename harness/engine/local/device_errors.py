"""What an exception says of the device: out of memory, broken for good, or neither."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.core.errors import BrokenDeviceError, OutOfMemoryError

OUT_OF_MEMORY = (
    "allocate memory",
    "out of memory",
    "could not create a primitive",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Texts of plain RuntimeErrors where memory is short: of the CPU's allocator and of oneDNN, of the CUDA runtime and
its libraries."""
CAPTURE = "captur"
"""In every text about a CUDA graph that could not be recorded: the device is as it was."""
BROKEN = ("CUDA error:", "CUBLAS_STATUS_", "CUDNN_STATUS_", "HIP error:", "device-side assert")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less work at a time may go through."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)
    )


def breaks_the_device(error: BaseException) -> bool:
    """Whether a GPU's context is lost: every later call in this process fails too, whatever its input.

    CUDA keeps an error of a kernel (an illegal address, a failed assertion, a lost link) until the process ends;
    torch raises it as `torch.AcceleratorError`, its libraries as RuntimeErrors.
    """
    if is_out_of_memory(error) or CAPTURE in str(error):
        return False
    known = getattr(torch, "AcceleratorError", ())
    return isinstance(error, known) or (isinstance(error, RuntimeError) and any(text in str(error) for text in BROKEN))


def give_memory_back(error: BaseException) -> None:
    """Free what an error that is dealt with still holds, and what torch keeps of it on GPUs.

    The frames of a traceback hold their tensors until they are cleared. Frames that still run keep theirs.
    """
    traceback.clear_frames(error.__traceback__)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def naming_device_errors() -> Iterator[None]:
    """Raise `BrokenDeviceError` for errors in the block that break the device, and `OutOfMemoryError` however memory
    ran out; others pass as they are.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(str(error) or type(error).__name__) from error
        if not breaks_the_device(error):
            raise
        cause = str(error).strip().partition("\n")[0]
        raise BrokenDeviceError(f"the device has failed for good: {cause}") from error
