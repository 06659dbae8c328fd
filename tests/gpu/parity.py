"""Whether every kernel scores as float32 does: shared prefixes against prompts by themselves."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from harness.engine.local.attention.choice import shape_of
from harness.engine.local.parity import sharing_error
from harness.engine.local.scorer import Scorer
from tests.gpu.device import CUDA, DEVICE, SIZES
from tests.gpu.kernels import kernels_for, trying
from tests.gpu.steps import Note, WrongError
from tests.models import random_model
from tests.scoring import random_grid

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOKENS_PER_PACK = 512 if CUDA else 128
NEOX = {"hidden_size": 512, "intermediate_size": 1024, "initializer_range": 0.05, "rotary_pct": 0.5}
LLAMA = {"hidden_size": 512, "intermediate_size": 1024, "initializer_range": 0.05, "head_dim": 128}
SETTINGS: dict[str, dict[str, Any]] = {"gpt_neox": NEOX, "llama": LLAMA} if CUDA else {"gpt_neox": {}, "llama": {}}
"""Heads of 128: polyglot's four of four, and Llama's four on two."""
MEAN, MEAN_FLOOR = 2, 1e-4
LARGEST, LARGEST_FLOOR = 4, 1e-3
"""How much further from float32 sharing may be than the number format by itself, and nats that are always allowed."""


def gpt_neox(note: Note) -> None:
    """All kernels and number formats on GPT-NeoX."""
    _compare("gpt_neox", note)


def llama(note: Note) -> None:
    """All kernels and number formats on a Llama whose heads share keys."""
    _compare("llama", note)


def _compare(kind: str, note: Note) -> None:
    exact_model = random_model(kind, 0, DEVICE, **SETTINGS[kind])
    contexts, labels = random_grid(7, n_queries=SIZES.grid)
    exact = Scorer(exact_model, 2048, False).score(contexts, labels).logprobs
    wrong: list[str] = []
    for dtype in DTYPES:
        model = copy.deepcopy(exact_model).to(dtype)
        alone = _distance(Scorer(model, 2048, False).score(contexts, labels).logprobs, exact)
        note(f"{_name(dtype)} alone", alone)
        for name, kernel in kernels_for(dtype, shape_of(model).head_size, TOKENS_PER_PACK).items():
            place = f"{_name(dtype)} {name}"
            if isinstance(kernel, str):
                note(place, kernel)
                continue
            with trying(note, place, wrong):
                reason = sharing_error(model, 500, kernel)
                scores = Scorer(model, TOKENS_PER_PACK, True, kernel).score(contexts, labels).logprobs
                found = _distance(scores, exact)
                note(place, found)
                if reason is not None or not _is_near(found, alone):
                    wrong.append(f"{place}: {reason or found}")
    if wrong:
        raise WrongError("; ".join(wrong))


def _distance(found: Any, exact: Any) -> dict[str, float]:
    """How far log-probabilities lie from float32's, nats, and how many predictions differ."""
    apart = np.abs(found - exact)
    return {
        "mean": float(apart.mean()),
        "largest": float(apart.max()),
        "other predictions": int((found.argmax(1) != exact.argmax(1)).sum()),
        "prompts": len(found),
    }


def _is_near(found: dict[str, float], alone: dict[str, float]) -> bool:
    return bool(
        found["mean"] <= max(MEAN * alone["mean"], alone["mean"] + MEAN_FLOOR)
        and found["largest"] <= max(LARGEST * alone["largest"], alone["largest"] + LARGEST_FLOOR)
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
