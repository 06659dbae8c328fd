"""Reads answers of servers: what is not there, is no number, or is of another layout, is said in one line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness.core.errors import NotFiniteError, RequestError
from harness.core.escaping import one_line

STUMBLES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What code that reads sound answers meets in others."""
MOST_IDS = 2**31
"""Token ids are below that."""


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


@contextmanager
def read_as_answer() -> Iterator[None]:
    """Turn whatever goes wrong while an answer is read into one line; the cause is kept.

    Raises:
        RequestError: it is not laid out as answers are.
    """
    try:
        yield
    except STUMBLES as error:
        raise RequestError(
            f"the server's answer is not laid out as expected ({type(error).__name__}: {one_line(str(error), 80)})"
        ) from error


def token_id(value: Any) -> int:
    """A token's id, from a number or its digits.

    Raises:
        RequestError: it is none.
    """
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value, is_whole = int(value), True
    if not is_whole or not 0 <= value < MOST_IDS:
        raise RequestError(f"the server gave {one_line(repr(value), 40)} for a token's id, expected a whole number")
    return int(value)


def listed(value: Any, what: str, size: int | None = None) -> list[Any]:
    """A list, of so many entries where that is known.

    Raises:
        RequestError: it is none, or longer or shorter.
    """
    if not isinstance(value, list) or size not in (None, len(value)):
        found = f"{len(value):,}" if isinstance(value, list) else one_line(repr(value), 40)
        raise RequestError(f"the server gave {found} for {what}, expected {'a list' if size is None else f'{size:,}'}")
    return value


def log_of_sum(values: Sequence[float]) -> float:
    """Of probabilities, given their logarithms, which may be too small for a probability (-9999)."""
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values))


def logprob(value: Any) -> float:
    """A log-probability.

    Raises:
        RequestError: it is no number.
        NotFiniteError: it is NaN, infinite, or above 0 by more than rounding.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        shown = one_line(repr(value), 40)
        raise RequestError(f"the server gave {shown} for a log-probability, expected a number")
    if not math.isfinite(value) or value > 0.01:
        raise NotFiniteError(f"the server gave {value} for a log-probability, expected a finite number of at most 0")
    return float(value)


def whole(ids: Sequence[int], label: Sequence[int]) -> list[int]:
    """A prompt with a label behind it."""
    return [*ids, *label]
