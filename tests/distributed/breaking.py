"""The engine `local` on replicas that lose their device: every later call in their process fails.

Files in the model's folder say when, so that processes on a cluster see them too.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from harness.engine.local.device_errors import naming_device_errors
from harness.engine.local.engine import LocalEngine

ONCE = "breaks-once"
"""The first process that comes to its third call takes this file away and is broken from then on."""
LOADING = "breaks-loading-once"
"""The first process that loads the model takes this file away and fails."""
SAMPLE = "breaks-at"
"""Token ids, as JSON: a prompt that ends with them breaks the device of whoever computes it."""
ASSERTED = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"


class Breaking:
    """`Scorer.compute` on a device that can break."""

    def __init__(self, compute, folder: Path) -> None:
        self.compute, self.folder = compute, folder
        self.calls, self.broken = 0, False

    def __call__(self, prepared):
        self.calls += 1
        self.broken = self.broken or (self.calls >= 3 and taken(self.folder / ONCE)) or self.meets(prepared.contexts)
        if self.broken:
            raise torch.AcceleratorError(ASSERTED)
        return self.compute(prepared)

    def meets(self, contexts) -> bool:
        file = self.folder / SAMPLE
        if not file.exists():
            return False
        ids = json.loads(file.read_text())
        return any(list(context[-len(ids) :]) == ids for context in contexts)


def taken(file: Path) -> bool:
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    return True


class BreakingEngine(LocalEngine):
    def open(self, model, settings):
        if taken(Path(model.path) / LOADING):
            with naming_device_errors():
                raise torch.AcceleratorError(ASSERTED)
        loaded = super().open(model, settings)
        loaded.scorer.compute = Breaking(loaded.scorer.compute, Path(model.path))
        return loaded


ENGINE = BreakingEngine()
