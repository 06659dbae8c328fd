"""What the strategy that looks best is worth: its score without the luck it was chosen for.

The highest of several noisy means is too high on average (the winner's curse). Estimand: expected
value, on new samples, of the strategy that has the highest mean on a set of samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from harness.analysis.intervals import LEVEL, Estimate, MeanError, half_width, mean_error
from harness.analysis.resampling import bootstrap_weights, unit_sums
from harness.analysis.table import BoolArray, FloatArray, IntArray

SPLITS = 200
REPLICATES = 1000


@dataclass(frozen=True, slots=True)
class Selection:
    """The best mean as seen and as it is to be expected."""

    best: int
    """Row of the strategy with the highest mean, the first of equals."""
    as_seen: float
    """Its mean on the samples it was chosen on."""
    expected: Estimate
    """From split halves; slightly low, since a choice on half of the samples is a worse choice."""
    bootstrap_expected: float
    """`as_seen` less the bootstrap's optimism; slightly high when many strategies are near ties."""
    seed: int


def selection(
    values: FloatArray,
    clusters: IntArray | None = None,
    splits: int = SPLITS,
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = LEVEL,
) -> Selection:
    """The honest value of choosing the best of these strategies.

    Split halves: samples (whole clusters) are halved at random many times; each half chooses, the
    other judges. Every sample thus gets the mean value of the strategies chosen without it, and
    the figure is the mean of those. Its variance is taken to be that of one strategy's mean: the
    average of the strategies' variances, weighted by how often each was chosen. (The variance of
    the averaged values is too small, because choosing ties the halves to each other.)
    Bootstrap: the mean over resamples of (mean of the resample's best strategy in the resample -
    the same strategy's mean in the data) is subtracted (Efron 1983's optimism).

    Args:
        values: (strategies, samples); NaN is missing, and does not count in the means.
        clusters: (samples,) codes.
        splits: random halvings.
        replicates: resamples.
        seed: of both.
        level: of the interval.
    """
    used = np.isfinite(values).any(axis=1)
    rows = np.flatnonzero(used)
    known = np.isfinite(values[used])
    filled = np.where(known, values[used], 0.0)
    sums, counts = unit_sums(filled, clusters), unit_sums(known.astype(float), clusters)
    means = sums.sum(axis=1) / counts.sum(axis=1)
    best = int(means.argmax())
    expected = _split_halves(filled, known, clusters, (sums, counts), splits, seed, level)
    optimism = _optimism(sums, counts, means, replicates, seed)
    return Selection(int(rows[best]), float(means[best]), expected, float(means[best]) - optimism, seed)


def _split_halves(
    filled: FloatArray,
    known: BoolArray,
    clusters: IntArray | None,
    totals: tuple[FloatArray, FloatArray],
    splits: int,
    seed: int,
    level: float,
) -> Estimate:
    sums, counts = totals
    units = sums.shape[1]
    rng = np.random.default_rng(seed)
    half = np.argsort(rng.random((splits, units)), axis=1) < units // 2
    halves = np.concatenate([half, ~half]).astype(float)
    chosen = _best(halves, sums, counts)
    # (strategies, units): how often a unit is judged by a strategy that was chosen without it
    judged = np.zeros_like(sums)
    for row in np.unique(chosen):
        judged[row] = (1 - halves[chosen == row]).sum(axis=0)
    per_sample = judged if clusters is None else judged[:, clusters]
    weights = per_sample * known
    total = weights.sum(axis=0)
    kept = total > 0
    held_out = (weights * filled).sum(axis=0)[kept] / total[kept]
    value = float(held_out.mean())
    rows, times = np.unique(chosen, return_counts=True)
    errors = [_error_of_row(filled[row], known[row], clusters) for row in rows]
    variance = float(np.average([error.sample_variance for error in errors], weights=times))
    common = replace(errors[int(times.argmax())], value=value, sample_variance=variance)
    half_length = half_width(common, level)
    method = f"{splits} split halves"
    return Estimate(value, value - half_length, value + half_length, method, len(held_out), common.n_units)


def _error_of_row(values: FloatArray, known: BoolArray, clusters: IntArray | None) -> MeanError:
    return mean_error(values[known], None if clusters is None else clusters[known])


def _optimism(sums: FloatArray, counts: FloatArray, means: FloatArray, replicates: int, seed: int) -> float:
    total = 0.0
    for weights in bootstrap_weights(sums.shape[1], replicates, seed):
        found = _means(weights, sums, counts)
        chosen = found.argmax(axis=1)
        total += float((found.max(axis=1) - means[chosen]).sum())
    return total / replicates


def _means(weights: FloatArray, sums: FloatArray, counts: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        means: FloatArray = np.nan_to_num((weights @ sums.T) / (weights @ counts.T), nan=-np.inf)
    return means


def _best(weights: FloatArray, sums: FloatArray, counts: FloatArray) -> IntArray:
    best: IntArray = _means(weights, sums, counts).argmax(axis=1)
    return best
