"""How far two ways of computing the same prompts agree: decisions, log-probabilities, answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
WIDER, FARTHER = 2.0, 4.0
"""How many times the number format's own mean and largest difference packing may reach."""
MEAN_NOISE, LARGEST_NOISE = 1e-4, 1e-3
"""Differences in nats that are rounding whatever the format: those that float32 itself may show."""
FEWER_EQUAL = 3.0
"""Standard errors by which the share of equal answers may fall below that of the number format."""


@dataclass(frozen=True)
class ScoreAgreement:
    """Log-probabilities of labels against a reference.

    Attributes:
        prompts: how many were compared.
        flips: predictions that are another class than the reference's.
        near_ties: prompts whose two most likely labels are, in the reference, no farther apart
            than `bound`: those whose decision rounding can turn.
        bound: twice the largest difference, nats: two labels may move against each other.
        largest, mean: absolute difference of a label's log-probability, nats.
        unusable: prompts with a log-probability that is no number, in either; not in the differences.
    """

    prompts: int
    flips: int
    near_ties: int
    bound: float
    largest: float
    mean: float
    unusable: int


@dataclass(frozen=True)
class AnswerAgreement:
    """Generated answers against a reference."""

    prompts: int
    equal: int


def compare_scores(
    reference: Floats, found: Floats, reference_predictions: Sequence[int], predictions: Sequence[int]
) -> ScoreAgreement:
    """Hold scores against a reference.

    Args:
        reference, found: `(n_prompts, n_labels)` log-probabilities, nats; n_labels at least 2.
        reference_predictions, predictions: the class that each gives.
    """
    usable = np.isfinite(found).all(1) & np.isfinite(reference).all(1)
    apart = np.abs(found[usable] - reference[usable])
    largest = float(apart.max(initial=0.0))
    ordered = np.sort(reference[usable], axis=1)
    near = ordered[:, -1] - ordered[:, -2] <= 2 * largest
    return ScoreAgreement(
        prompts=len(reference),
        flips=sum(a != b for a, b in zip(reference_predictions, predictions, strict=True)),
        near_ties=int(near.sum()),
        bound=2 * largest,
        largest=largest,
        mean=float(apart.mean()) if apart.size else 0.0,
        unusable=int((~usable).sum()),
    )


def compare_answers(reference: Sequence[str], found: Sequence[str]) -> AnswerAgreement:
    """Count the answers that are the same."""
    return AnswerAgreement(len(reference), sum(a == b for a, b in zip(reference, found, strict=True)))


def packing_adds(run: ScoreAgreement | AnswerAgreement, alone: ScoreAgreement | AnswerAgreement) -> bool:
    """Whether the run's way of computing differs by more than its number format explains.

    Args:
        run: the run's number format and packing against the reference.
        alone: the same format, every prompt by itself, against the reference.
    """
    if isinstance(run, ScoreAgreement) and isinstance(alone, ScoreAgreement):
        wider = run.mean > WIDER * alone.mean + MEAN_NOISE
        farther = run.largest > FARTHER * alone.largest + LARGEST_NOISE
        return wider or farther or run.unusable > alone.unusable
    assert isinstance(run, AnswerAgreement) and isinstance(alone, AnswerAgreement)
    if not run.prompts:
        return False
    share, expected = run.equal / run.prompts, alone.equal / alone.prompts
    # Two shares of n answers each; of none or all equal, one answer's worth of doubt remains.
    spread = max(expected * (1 - expected), 1 / run.prompts)
    return share < expected - FEWER_EQUAL * math.sqrt(2 * spread / run.prompts)
