"""Copies from host to device that do not make the host wait."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def to_device(array: npt.NDArray[Any] | list[Any], device: torch.device) -> torch.Tensor:
    """An array on a device.

    To a GPU it goes through pinned memory and in the order of the device's stream, so that the
    next pack is prepared while the GPU computes; a copy from ordinary memory would wait for it.
    """
    tensor = torch.from_numpy(np.asarray(array))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
