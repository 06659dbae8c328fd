"""What is measured: pairs of workload and model, by default and as asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.engine.local.loading import choose_dtype
from tests.bench.workloads import KINDS

RAY = "ray"
LETTERS = (*KINDS, RAY)


@dataclass(frozen=True)
class Case:
    """One comparison; `samples` None takes the workload's own number."""

    letter: str
    model: str
    samples: int | None = None
    dtype: str = "float32"


CPU = (
    Case("a", "embedded"),
    Case("a", "40m"),
    Case("a", "160m", 60),
    Case("b", "40m", 30),
    Case("c", "embedded"),
    Case("d", "40m"),
    Case("d-drawn", "40m", 60),
    Case("e", "40m", 40),
    Case(RAY, "40m"),
)
"""Under 15 minutes on two cores."""
CPU_BFLOAT16 = (Case("a", "40m", None, "bfloat16"), Case("a", "160m", 60, "bfloat16"))
"""Where the processor multiplies bfloat16 natively."""
GPU = tuple(Case(letter, "1.3b", None, "bfloat16") for letter in ("a", "b", "c", "d", "e"))
"""Under 10 minutes; `--models 1.3b,5.8b --workloads a,b,c,d,d-drawn,e` takes longer."""


def choose_cases(
    device: str,
    letters: Sequence[str] | None,
    models: Sequence[str] | None,
    samples: int | None,
    dtype: str | None,
) -> list[Case]:
    """The cases of a device, or all pairs of the letters and models asked for.

    Args:
        device: `cpu` or `cuda`.
        letters: of `LETTERS`; None takes those of the device.
        models: None takes those of the device.
        samples: for every case; None takes the default's.
        dtype: for every case; None takes the default's.
    """
    default = GPU if device == "cuda" else CPU
    if device == "cpu" and choose_dtype("auto", torch.device("cpu")) == torch.bfloat16:
        default += CPU_BFLOAT16
    if letters or models:
        known = {(case.letter, case.model): case.samples for case in default}
        names = models or list(dict.fromkeys(c.model for c in default if not letters or c.letter in letters))
        chosen = letters or list(dict.fromkeys(c.letter for c in default))
        default = tuple(
            Case(letter, model, known.get((letter, model)), default[0].dtype)
            for model in names or ["embedded"]
            for letter in chosen
        )
    found = [Case(c.letter, c.model, samples or c.samples, dtype or c.dtype) for c in default]
    return list(dict.fromkeys(found))
