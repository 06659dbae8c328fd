"""The interval of the expected calibration error: which true errors could well have given the one that was seen.

A figure that adds absolute distances is too high where there is little or no error, and its bootstrap is too high once
more. So the test is inverted. For each true error, answers are drawn that have it: bins as large as those seen,
confidence as seen, accuracies that differ from it in the directions seen. The interval has all true errors under which
the figure seen is no outlier. Refuses to know where answers come from.
"""

from __future__ import annotations

import math

import numpy as np

from harness.analysis.table import FloatArray

DRAWS, HALVINGS = 2000, 10
"""Figures drawn per true error, and how often the true errors in question are halved for each end."""


def ece_interval(
    sizes: FloatArray, confidence: FloatArray, right: FloatArray, level: float, seed: int, effect: float = 1.0
) -> tuple[float, float]:
    """The ends of the interval of the mean absolute distance of confidence and accuracy over bins.

    How a true error spreads over bins is not known: that which lies in few bins leaves noise in the others and makes
    the figure higher than one that lies in all. The low end takes it where the figure has more than noise, the
    high end spreads it evenly. Where the true error is near nil the figure can only be too high: there all of the
    error probability is the low end's.

    Args:
        sizes: (bins,) samples.
        confidence: (bins,) summed.
        right: (bins,) right answers.
        level: of the interval.
        seed: of the draws.
        effect: by how much clusters raise variances; so many samples count for one.
    """
    used = sizes > 0
    sizes, confidence, right = (values[used] / effect for values in (sizes, confidence, right))
    total, mean = float(sizes.sum()), confidence / sizes
    gaps = confidence - right
    # An answer more per bin, as right as it is sure: bins without an error are not known to have none.
    accuracy = (right + mean) / (sizes + 1)
    variance = sizes * accuracy * (1 - accuracy)
    seen = float(np.abs(gaps).sum() / total)
    shrunk = np.sqrt(np.maximum(gaps**2 - variance, 0))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(max(1, round(total)), sizes / total, DRAWS)

    def tried(wanted: float, spread: FloatArray, is_low: bool) -> tuple[float, float]:
        """A true error, and how far the last figure that is no outlier under it lies beyond the one seen."""
        gap = np.sign(gaps + (gaps == 0)) * wanted * spread / spread.sum() * total / sizes
        truth = np.clip(mean - gap, 0, 1)
        error = float((np.abs(mean - truth) * sizes).sum() / total)
        right = np.random.default_rng(seed + 1).binomial(drawn, truth)
        figures = np.abs(drawn * mean - right).sum(axis=1) / drawn.sum(axis=1)
        below = (1 - level) / 2 * min(1.0, error / (2 * float(figures.std()) + 1e-12))
        return error, float(np.quantile(figures, level + below if is_low else below)) - seen

    def end(spread: FloatArray, is_low: bool) -> float:
        at = [0.0, min(1.0, seen + 5 * math.sqrt(float(variance.sum())) / total + 1 / total)]
        outermost = tried(at[0 if is_low else 1], spread, is_low)
        if outermost[1] >= 0 if is_low else outermost[1] <= 0:
            return outermost[0]
        for _ in range(HALVINGS):
            middle = sum(at) / 2
            at[int(tried(middle, spread, is_low)[1] >= 0)] = middle
        return tried(sum(at) / 2, spread, is_low)[0]

    low, high = end(shrunk if shrunk.sum() > 0 else sizes, True), end(sizes, False)
    return min(low, high), max(low, high)
