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
    return _pinned(tensor).to(device, non_blocking=True)


class OnDevices:
    """One array on every device that asks for it: layers of a model may lie on several.

    Args:
        array: on the host.
    """

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array
        self._copies: dict[torch.device, torch.Tensor] = {}

    def on(self, device: torch.device) -> torch.Tensor:
        """The array there, copied once."""
        if device not in self._copies:
            self._copies[device] = to_device(self.array, device)
        return self._copies[device]


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.pin_memory()
