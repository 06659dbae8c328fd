"""How often the host waits for the GPU: per pack of a unit, and per step of decoding."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from harness.engine.local.attention.cache import Kept
from harness.engine.local.attention.choice import Kernel, PackAttention, choose_kernel, shape_of
from harness.engine.local.attention.tree_attention import Needed
from harness.engine.local.generator import Generator
from harness.engine.local.scorer import Scorer
from harness.engine.local.tree.packing import Pack
from tests.gpu.device import CUDA, DEVICE, SIZES
from tests.gpu.parity import SETTINGS
from tests.gpu.steps import Note, SkippedError, WrongError
from tests.models import random_model
from tests.scoring import random_grid

PACKS = (256, 1024)
STEPS = (4, 12)
"""Two amounts of work each: what is waited for once per unit drops out of the difference."""


class CountingKernel:
    """A kernel that counts the packs it begins."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.name = kernel.name
        self.packs = 0

    def begin(self, pack: Pack, kept: Kept, needed: Needed | None = None) -> PackAttention:
        """See `Kernel.begin`."""
        self.packs += 1
        return self.kernel.begin(pack, kept, needed)


def count_waits(note: Note) -> None:
    """Waits between packs, of which there should be none, and per decoding step, of which there should be one."""
    if not CUDA:
        raise SkippedError("only a GPU is waited for")
    model = random_model("llama", 0, DEVICE, torch.bfloat16, **SETTINGS["llama"])
    contexts, labels = random_grid(64, n_queries=SIZES.grid)
    kernel = CountingKernel(choose_kernel(shape_of(model), PACKS[0], 500, DEVICE).kernel)
    note("kernel", kernel.name)
    waits, packs = [], []
    for size in PACKS:
        scorer = Scorer(model, size, True, kernel)
        scorer.score(contexts, labels)
        kernel.packs = 0
        places = _waits(lambda scorer=scorer: scorer.score(contexts, labels))  # type: ignore[misc]
        waits.append(places.total())
        packs.append(kernel.packs)
        note(f"scoring in {kernel.packs} packs", dict(places))
    per_pack = (waits[0] - waits[1]) / (packs[0] - packs[1])
    note("per pack", per_pack)
    generator, waits = Generator(Scorer(model, PACKS[1], True, kernel)), []
    generator.generate(contexts, 2, lambda tokens: False)
    for steps in STEPS:
        places = _waits(lambda steps=steps: generator.generate(contexts, steps, lambda tokens: False))  # type: ignore[misc]
        waits.append(places.total())
        note(f"decoding {steps} tokens", dict(places))
    per_step = (waits[1] - waits[0]) / (STEPS[1] - STEPS[0])
    note("per decoding step", per_step)
    if per_pack > 0 or per_step > 1:
        raise WrongError(f"the host waits {per_pack:.2g} times a pack and {per_step:.2g} times a decoding step")


def _waits(function: Callable[[], object]) -> Counter[str]:
    """Where a call made the host wait, and how often."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Counter(
        f"{'/'.join(Path(warning.filename).parts[-3:])}:{warning.lineno}"
        for warning in caught
        if "called a synchronizing" in str(warning.message)
    )
