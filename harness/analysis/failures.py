"""Samples that only some strategies have: which are common, and what failures could hide.

What fails is seldom a random part of the samples: long reviews break the context, odd ones the engine. A mean
over the rest is about easier samples, so strategies are ranked where all have a value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.analysis.strategies import Strategies
from harness.analysis.table import BoolArray, FloatArray, IntArray

LEAST_SHARE = 0.5
"""Of the samples of the strategy that has most; a strategy that leaves fewer in common is not ranked."""


def common_samples(scored: BoolArray) -> tuple[BoolArray, BoolArray]:
    """The samples on which strategies can be ranked, and the strategies that are.

    Strategies come in the order of how many samples they have; one that would leave fewer than
    `LEAST_SHARE` of them in common (a cell that has just begun) is left out.

    Args:
        scored: (strategies, samples) there is a value.

    Returns:
        (samples,) all ranked strategies have a value; (strategies,) it is ranked.
    """
    counts = scored.sum(axis=1)
    common = np.ones(scored.shape[1], dtype=bool)
    ranked = np.zeros(len(scored), dtype=bool)
    for row in np.argsort(-counts, kind="stable"):
        both = common & scored[row]
        if both.any() and both.sum() >= LEAST_SHARE * counts.max():
            common, ranked[row] = both, True
    return common, ranked


@dataclass(frozen=True, slots=True)
class Failures:
    """How strategies differ in what failed, and what that could hide about the best."""

    shares: FloatArray
    """(strategies,) failed of the attempted samples; NaN where nothing was attempted."""
    rival: int
    """The strategy that would be furthest ahead of the best, or least behind, in the worst case."""
    lead: float
    """Its lead over the best if all that failed under the best were worth 0 and under the rival 1."""


def failures(strategies: Strategies, best: int) -> Failures | None:
    """What failed, where strategies differ in it; None where all failed on equal shares.

    Args:
        strategies: with values in 0..1.
        best: the row that is named best.
    """
    attempted, scored = strategies.attempted, strategies.scored
    counts: IntArray = attempted.sum(axis=1)
    with np.errstate(invalid="ignore"):
        shares: FloatArray = (attempted & ~scored).sum(axis=1) / counts
    if np.nanmax(shares) == np.nanmin(shares):
        return None
    means = strategies.per_sample
    both = attempted & attempted[best]
    ahead = np.where(scored, means, 1.0) - np.where(scored[best], means[best], 0.0)
    with np.errstate(invalid="ignore"):
        leads = np.where(both, ahead, 0.0).sum(axis=1) / both.sum(axis=1)
    leads[best] = -np.inf
    leads = np.nan_to_num(leads, nan=-np.inf)
    rival = int(leads.argmax())
    return Failures(shares, rival, float(leads[rival]))
