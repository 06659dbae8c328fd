"""A task on the embedded reviews whose replicas lose their device: every later call in their process fails.

Files in the model's folder say when, so that processes on a cluster see them too.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from harness.running import worker
from tasks.nsmc import TASK as NSMC

ONCE = "breaks-once"
"""The first process that comes to its third call takes this file away and is broken from then on."""
LOADING = "breaks-loading-once"
"""The first process that loads the model takes this file away and fails."""
SAMPLE = "breaks-at"
"""Token ids, as JSON: a prompt that ends with them breaks the device of whoever computes it."""
ASSERTED = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"
TASK = dataclasses.replace(NSMC, name="breaking")


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


def load_engine(spec, *rest):
    if taken(Path(spec.path) / LOADING):
        raise torch.AcceleratorError(ASSERTED)
    scorer, facts = whole(spec, *rest)
    scorer.compute = Breaking(scorer.compute, Path(spec.path))
    return scorer, facts


whole = worker.load_engine
worker.load_engine = load_engine
