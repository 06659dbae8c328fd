"""Reads answers of servers: what is not there, or is no number, is said in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.errors import NotFiniteError, RequestError


@dataclass(frozen=True)
class PromptScore:
    """What one prompt's labels got.

    Attributes:
        logprobs: of each label, nats.
        argmax: likeliest token at the first label position; -1 where only its text is known.
        argmax_text: what it reads; None where its id says that.
        off_label_mass: probability there outside the labels' first tokens.
    """

    logprobs: tuple[float, ...]
    argmax: int
    argmax_text: str | None
    off_label_mass: float


def part(answer: Any, *path: str | int) -> Any:
    """What stands at a place of an answer.

    Raises:
        RequestError: nothing does.
    """
    found = answer
    for step in path:
        try:
            found = found[step]
        except (KeyError, IndexError, TypeError):
            found = None
        if found is None:
            place = ".".join(map(str, path))
            raise RequestError(f"the server's answer has no {place}, which it had when the run began")
    return found


def logprob(value: Any) -> float:
    """A log-probability.

    Raises:
        RequestError: it is no number.
        NotFiniteError: it is NaN, infinite, or above 0 by more than rounding.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(f"the server gave {value!r} for a log-probability, expected a number")
    if not math.isfinite(value) or value > 0.01:
        raise NotFiniteError(f"the server gave {value} for a log-probability, expected a finite number of at most 0")
    return float(value)


def whole(ids: Sequence[int], label: Sequence[int]) -> list[int]:
    """A prompt with a label behind it."""
    return [*ids, *label]
