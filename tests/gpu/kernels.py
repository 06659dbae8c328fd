"""The kernels that can be tried on this device; on a CPU the plain forms of the same code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from harness.engine.local.attention.cascade import CascadeKernel, reference_varlen, why_not_flash
from harness.engine.local.attention.choice import PARTS, Kernel
from harness.engine.local.attention.flex import FlexKernel, why_not_flex
from tests.gpu.device import CUDA, DEVICE, is_broken
from tests.gpu.steps import Note


def kernels_for(dtype: torch.dtype, head_size: int, tokens_per_pack: int) -> dict[str, Kernel | str]:
    """Name to kernel, or to the reason why this device has none."""
    makers: dict[str, tuple[str | None, Callable[[], Kernel]]] = {
        "parts": (None, lambda: PARTS),
        "cascade": (why_not_flash(DEVICE, dtype, head_size), CascadeKernel),
        "flex": (why_not_flex(DEVICE), lambda: FlexKernel(tokens_per_pack)),
    }
    if not CUDA:
        makers["cascade"] = (None, lambda: CascadeKernel(reference_varlen))
        makers["flex"] = (None, lambda: FlexKernel(tokens_per_pack, compiled=False))
    return {name: make() if reason is None else reason for name, (reason, make) in makers.items()}


@contextmanager
def trying(note: Note, place: str, wrong: list[str]) -> Iterator[None]:
    """An error in the block is noted and added to what is wrong, so that other kernels are tried as well.

    Raises:
        Exception: the error itself, where the device does not work any more.
    """
    try:
        yield
    except Exception as error:
        if is_broken():
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        note(place, reason)
        wrong.append(f"{place}: {reason}")
