"""What the strategy that looks best is worth: its score without the luck it was chosen for.

The highest of several noisy means is too high on average (the winner's curse). Estimand: the value, on
new samples and where seeds are averaged on new draws of demonstrations, of the strategy chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.analysis.intervals import LEVEL, Estimate, half_width, mean_interval, wilson_form, wilson_of_share
from harness.analysis.resampling import bootstrap_weights, unit_sums
from harness.analysis.sampling_error import MeanError, mean_error
from harness.analysis.table import FloatArray, IntArray

FOLDS = 5
"""Parts of the samples; all but one choose, the last one judges. With halves the choice is so much worse
that the figure is up to 1.2 points too low for the strategy that all samples choose; with five at most 0.4."""
REPEATS = 20
RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Selection:
    """The best mean as seen and as it is to be expected."""

    best: int
    """Row of the strategy with the highest mean, the first of equals."""
    as_seen: Estimate
    """Its mean on the samples it was chosen on; its interval takes no account of the choice."""
    expected: Estimate
    n_strategies: int
    """That the best was chosen from."""
    seed: int


def selection(
    values: FloatArray,
    clusters: IntArray | None = None,
    seed: int = 0,
    level: float = LEVEL,
    repeats: int = REPEATS,
) -> Selection:
    """The honest value of choosing the best of these strategies.

    The samples (whole clusters) are dealt into `FOLDS` parts, and again `repeats` times. All parts but one
    choose, on all seeds but one where there are several; the part and the seed left out judge. What
    judges has not chosen, so the mean over all of this is free of the luck: its expectation is the value at
    large of a strategy chosen like this on four fifths of the samples (the procedure-level estimand of
    Xu et al. 2026, arXiv 2605.05973).

    Interval: the low end is that of an interval around the figure (`wilson_form`, with the variance of one
    strategy's mean, seeds included), the high end is that or the one of the best as seen, whichever is higher.
    The variance is relative to m (1 - m), averaged over the strategies weighted by how often each was
    chosen, and taken at the figure: the best as seen near 1 has hardly any variance, which is luck, too.
    The second high end is there because the best on all samples may be better than what four fifths
    choose, and choosing never makes a mean look too low. Simulated: see docs/statistics.md.

    Args:
        values: (strategies, samples) or (strategies, seeds, samples); strategies without a value are passed
            over, then samples with a NaN.
        clusters: (samples,) codes.
        seed: of the dealing.
        level: of the interval.
        repeats: how often the samples are dealt.

    Raises:
        ValueError: no sample has a value under every strategy that has any.
    """
    table = values if values.ndim == 3 else values[:, None, :]
    has = np.isfinite(table.sum(axis=1))
    rows = np.flatnonzero(has.any(axis=1))
    known = has[rows].all(axis=0)
    if not known.any():
        raise ValueError("no sample that all strategies have")
    table = table[rows][..., known]
    codes = None if clusters is None else np.unique(clusters[known], return_inverse=True)[1]
    best = int(table.mean(axis=(1, 2)).argmax())
    seen = mean_interval(table[best], codes, level)
    value, chosen, times = _judged(table, codes, repeats, seed)
    low, high = _interval(table[chosen], times, codes, value, level)
    high = np.fmax(high, seen.high)
    method = f"{FOLDS} parts dealt {repeats} times"
    expected = Estimate(value, low, float(high), method, seen.n, seen.n_units)
    return Selection(int(rows[best]), seen, expected, len(rows), seed)


def _judged(table: FloatArray, codes: IntArray | None, repeats: int, seed: int) -> tuple[float, IntArray, IntArray]:
    """The mean of what was judged, the strategies that were ever chosen, and how often each was."""
    n_strategies, n_seeds, n = table.shape
    sums = unit_sums(table, codes)
    units = sums.shape[-1]
    if units < 2:
        return math.nan, np.array([int(table.mean(axis=(1, 2)).argmax())]), np.array([1])
    parts = min(FOLDS, units)
    part = np.argsort(np.random.default_rng(seed).random((repeats, units)), axis=1) % parts
    mine = (part[:, None, :] == np.arange(parts)[:, None]).reshape(-1, units).astype(float)
    held = (mine @ sums.reshape(-1, units).T).reshape(-1, n_strategies, n_seeds)
    kept = sums.sum(axis=-1) - held
    chosen = np.empty((len(mine), n_seeds), dtype=np.int64)
    for left_out in range(n_seeds):
        others = kept if n_seeds == 1 else np.delete(kept, left_out, axis=2)
        chosen[:, left_out] = others.sum(axis=2).argmax(axis=1)
    judged = held[np.arange(len(mine))[:, None], chosen, np.arange(n_seeds)]
    found, times = np.unique(chosen, return_counts=True)
    return float(judged.sum()) / (repeats * n_seeds * n), found, times


def judged_values(
    values: FloatArray, clusters: IntArray | None = None, seed: int = 0, repeats: int = REPEATS
) -> FloatArray:
    """Per sample the value of the strategy that the other parts of the samples choose, averaged over dealings.

    Its mean is that of `selection` where strategies have one seed.

    Args:
        values: (strategies, samples) without NaN.
        clusters: (samples,) codes.
        seed: of the dealing.
        repeats: how often the samples are dealt.

    Returns:
        (samples,)
    """
    n = values.shape[1]
    codes = np.arange(n) if clusters is None else clusters
    sums = unit_sums(values, clusters)
    units = sums.shape[-1]
    if units < 2:
        return np.asarray(values[int(values.mean(axis=1).argmax())])
    parts = min(FOLDS, units)
    part = np.argsort(np.random.default_rng(seed).random((repeats, units)), axis=1) % parts
    found = np.zeros(n)
    for dealt in part:
        for place in range(parts):
            chosen = int((sums[:, dealt != place].sum(axis=1)).argmax())
            judges = (dealt == place)[codes]
            found[judges] += values[chosen, judges]
    return found / repeats


def luck_variance(values: FloatArray, clusters: IntArray | None = None, seed: int = 0, repeats: int = REPEATS) -> float:
    """How uncertain the luck is that `judged_values` takes off the best mean: its variance over samples.

    Samples (whole clusters) are drawn again and the dealing is kept. Who is chosen in a resample depends on the luck of
    the samples and on that of the resample, alike in size, so that where strategies tie the luck varies about twice as
    much as over samples: half of the variance is taken. Where one strategy is always chosen there is none.

    Args:
        values: (strategies, samples) without NaN.
        clusters: (samples,) codes.
        seed: of the dealing and of the resamples.
        repeats: how often the samples are dealt.
    """
    sums, sizes = unit_sums(values, clusters), unit_sums(np.ones(values.shape[1]), clusters)
    units = sums.shape[-1]
    if units < 2 or len(values) < 2:
        return 0.0
    parts = min(FOLDS, units)
    dealings = np.argsort(np.random.default_rng(seed).random((repeats, units)), axis=1) % parts
    best = sums[int(sums.sum(axis=1).argmax())]
    lucks = []
    for weights in bootstrap_weights(units, RESAMPLES, seed):
        judged = np.zeros(len(weights))
        for dealt in dealings:
            held = np.stack([weights[:, dealt == part] @ sums[:, dealt == part].T for part in range(parts)], axis=1)
            chosen = (held.sum(axis=1, keepdims=True) - held).argmax(axis=2)
            judged += np.take_along_axis(held, chosen[..., None], axis=2).sum(axis=(1, 2))
        lucks.append((weights @ best - judged / repeats) / (weights @ sizes))
    return float(np.concatenate(lucks).var(ddof=1)) / 2


def _interval(
    chosen: FloatArray, times: IntArray, codes: IntArray | None, value: float, level: float
) -> tuple[float, float]:
    """Around the figure, with the variance of one of the strategies that were chosen."""
    errors = [mean_error(row, codes) for row in chosen]
    share = bool(chosen.min() >= 0 and chosen.max() <= 1)
    scale = 1.0
    if share:
        spread = float(np.average([error.value * (1 - error.value) for error in errors], weights=times))
        scale = value * (1 - value) / spread if spread > 0 else 0.0

    def mean_of(name: str) -> float:
        return scale * float(np.average([getattr(error, name) for error in errors], weights=times))

    common = errors[int(times.argmax())]
    error = MeanError(
        value,
        mean_of("sample_variance"),
        common.df,
        mean_of("seed_variance"),
        mean_of("noise_variance"),
        common.n_seeds,
        common.n,
        common.n_units,
    )
    if not math.isfinite(error.sample_variance):
        return math.nan, math.nan
    if not share:
        half = half_width(error, level)
        return value - half, value + half
    if error.total <= 0:
        return wilson_of_share(value, error.n_units, level)
    return wilson_form(value, half_width(error, level))
