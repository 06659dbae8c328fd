"""Results that are no numbers: told as what they are, with what helps, before anyone computes with them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from transformers import LogitsProcessor

from harness.errors import NotFiniteError

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


def check_chosen(logits: torch.Tensor, chosen: torch.Tensor, dtype: torch.dtype) -> None:
    """Refuse most likely tokens whose logits are NaN or infinite.

    Args:
        logits: `(rows, vocabulary)`.
        chosen: `(rows,)` the most likely token of each row.
        dtype: number format of the model.

    Raises:
        NotFiniteError: with the number of rows.
    """
    good = logits.gather(1, chosen[:, None]).isfinite()
    if not bool(good.all()):
        raise NotFiniteError(
            f"logits of {int((~good).sum())} of {len(good)} answers are NaN or infinite in {_name(dtype)}; "
            f"{remedy(dtype)}"
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
        check_chosen(scores, scores.argmax(-1), self.dtype)
        return scores


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
