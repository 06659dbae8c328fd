"""Results that are no numbers: told as what they are, with what helps, before anyone computes with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import LogitsProcessor

from harness.core.errors import NotFiniteError

_WIDER = {"float16": "bfloat16 or float32", "bfloat16": "float32"}


def remedy(dtype: torch.dtype) -> str:
    """What helps against results that are NaN or infinite.

    Args:
        dtype: number format of the model.
    """
    wider = _WIDER.get(_name(dtype))
    if wider:
        return f"set model.dtype={wider}"
    return "its weights are damaged, or their training diverged: take another checkpoint"


def check_finite(values: npt.NDArray[np.float64], dtype: torch.dtype) -> None:
    """Refuse log-probabilities, any shape, that are NaN or infinite.

    Args:
        values: of some prompts; the first axis counts them.
        dtype: number format of the model.

    Raises:
        NotFiniteError: with their number.
    """
    good = np.isfinite(values)
    if not good.all():
        n = int((~good.reshape(len(values), -1).all(1)).sum())
        raise NotFiniteError(
            f"log-probabilities of {n} of {len(values)} prompts are NaN or infinite in {_name(dtype)}; {remedy(dtype)}"
        )


def finite_tokens(logits: torch.Tensor) -> torch.Tensor:
    """The most likely token of each row, `(rows,)`; -1 where its logit is NaN or infinite. No wait for the device.

    Args:
        logits: `(rows, vocabulary)`.
    """
    best, tokens = logits.max(-1)
    return torch.where(best.isfinite(), tokens, -1)


def check_tokens(tokens: Sequence[int], dtype: torch.dtype) -> None:
    """Refuse tokens of `finite_tokens` that are none.

    Args:
        tokens: of some answers.
        dtype: number format of the model.

    Raises:
        NotFiniteError: with their number.
    """
    bad = sum(token < 0 for token in tokens)
    if bad:
        raise NotFiniteError(
            f"logits of {bad} of {len(tokens)} answers are NaN or infinite in {_name(dtype)}; {remedy(dtype)}"
        )


class FiniteLogits(LogitsProcessor):
    """Leaves the logits of transformers' `generate` as they are, and refuses those that are no numbers.

    Args:
        dtype: number format of the model.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See `LogitsProcessor`."""
        check_tokens(finite_tokens(scores).tolist(), self.dtype)
        return scores


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
