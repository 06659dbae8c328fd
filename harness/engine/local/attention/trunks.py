"""What is remembered of a trunk from one unit to the next."""

from __future__ import annotations

import torch

from harness.engine.local.attention.cache import Kept

CPU_TRUNK_BYTES = 2**28
GPU_TRUNK_BYTES = 2**30
"""Most memory for the keys and values of a trunk; a larger trunk is computed again."""


class TrunkMemory:
    """Keys and values of the trunk that was computed last: the next unit often begins with it.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self.most_bytes = CPU_TRUNK_BYTES if device.type == "cpu" else GPU_TRUNK_BYTES
        self.tokens: list[int] = []
        self.kept: Kept = {}

    def recall(self, trunk: list[int]) -> Kept | None:
        """The caches of a trunk, as of path 0, when it is the one remembered.

        A part of a longer one does not do: its last bits may be those of other blocks of keys.
        """
        return self.kept if trunk and self.tokens == trunk else None

    def learn(self, trunk: list[int], kept: Kept) -> None:
        """Remember a trunk instead of the last; `kept` holds path 0 of every layer."""
        caches = {layer: {0: paths[0]} for layer, paths in kept.items()}
        size = sum(x.numel() * x.element_size() for paths in caches.values() for x in paths[0])
        self.tokens, self.kept = (trunk, caches) if size <= self.most_bytes else ([], {})
