"""Two strategies on the same samples: differences, tests, and what is left open.

All pairs, or all against a baseline. A pair uses the samples that both strategies have scored.
Refuses to know where the values come from.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy
from numpy.typing import ArrayLike

from harness.analysis.intervals import LEVEL, paired_interval, tail_probability
from harness.analysis.resampling import bootstrap_weights, sign_flip_probability, unit_sums
from harness.analysis.sampling_error import (
    FEW_UNITS,
    MeanError,
    SeedPool,
    complete,
    mean_error,
    pooled_seeds,
    steadied,
    with_pool,
)
from harness.analysis.strategies import Strategies
from harness.analysis.table import BoolArray, FloatArray, IntArray

SIGN_FLIPS = 99_999
TIE = 1e-12
"""Means that differ by less are equal but for rounding."""
POWER = 0.8
MOST_SAMPLES = 10**12
"""Beyond this no number of samples is said to suffice; differences of rounding would ask for more."""
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PairTest:
    """The null that two strategies are equally good on samples of this kind."""

    p: float
    """Two-sided; NaN with fewer than two independent units."""
    test: str
    more: int | None
    """Samples on which only the first is right; None where values are not 0 and 1."""
    fewer: int | None
    """Samples on which only the second is right."""


def pair_test(
    differences: FloatArray, clusters: IntArray | None, seed: int = 0, pool: SeedPool | None = None
) -> PairTest:
    """A p-value by the test that suits the differences.

    | differences | test |
    |---|---|
    | over several seeds | t, seeds as drawn at random (`intervals.tail_probability`) |
    | independent, of 0/1 values | McNemar's exact test |
    | fewer than `FEW_UNITS` clusters | sign flips of whole clusters |
    | fewer than `FEW_UNITS` samples | sign flips of samples or t, the larger p |
    | else | t, cluster-robust with clusters |

    All t are `steadied`: with few samples that differ, or rare but large wins, t alone claims up to 0.4 of equal
    strategies to differ at 0.05, and sign flips, which presume symmetry, do as well.

    Args:
        differences: (seeds, samples) first minus second, without NaN.
        clusters: (samples,) codes.
        seed: of the sign flips.
        pool: the seeds' variance over all strategies, to be used in place of the pair's own.
    """
    if (differences == differences[:1]).all():
        differences = differences[:1]
    error = with_pool(mean_error(differences, clusters), pool)
    more = fewer = None
    if len(differences) == 1 and np.isin(differences, (-1.0, 0.0, 1.0)).all():
        more, fewer = int((differences == 1).sum()), int((differences == -1).sum())
    if error.n_units < 2:
        return PairTest(math.nan, "none", more, fewer)
    if clusters is None and more is not None and fewer is not None:
        p = 2 * float(scipy.special.bdtr(min(more, fewer), more + fewer, 0.5)) if more + fewer else 1.0
        return PairTest(min(p, 1.0), "McNemar exact", more, fewer)
    steady = steadied(error, differences, clusters)
    if len(differences) > 1:
        name = "t, random seeds" if pool is None else "t, pooled seeds"
        return PairTest(tail_probability(steady, steady.value), name, more, fewer)
    if error.n_units < FEW_UNITS:
        sums = unit_sums(differences[0], clusters)
        p = sign_flip_probability(sums[sums != 0], SIGN_FLIPS, seed)
        if clusters is None:
            return PairTest(max(p, tail_probability(steady, steady.value)), "sign flips and t", more, fewer)
        return PairTest(p, "sign flips", more, fewer)
    name = "paired t" if clusters is None else "cluster-robust t"
    return PairTest(tail_probability(steady, steady.value), name, more, fewer)


def holm(p_values: ArrayLike) -> FloatArray:
    """Adjusted p-values that keep the family-wise error rate whatever the tests' dependence.

    Source: Holm 1979, Scandinavian Journal of Statistics 6(2). Those that are NaN stay NaN and do
    not count.
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    left = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(left * p[order]), 1)
    return adjusted


def compare_pairs(
    strategies: Strategies,
    pairs: Sequence[Pair] | None = None,
    level: float = LEVEL,
    seed: int = 0,
    *,
    pool_seeds: bool = False,
) -> pd.DataFrame:
    """One row per pair of strategies.

    Args:
        strategies: what is compared.
        pairs: (first, second) rows of the strategies; None: all.
        level: of the intervals; 1 - level is the family-wise error of the verdicts.
        seed: of sign flips.
        pool_seeds: take draws of demonstrations to move all strategies equally much (`intervals.pooled_seeds`);
            pairs with K = 0, which has no draws, keep their own variance.

    Returns:
        `first`, `second` (rows of the strategies), `n`, `n_units`, `difference` (first minus
        second), `low`, `high`, `method`, `more`, `fewer`, `p`, `test`, `p_holm` (over these
        pairs), `differs` (p_holm at most 1 - level), `more_samples` (see `samples_to_settle`;
        null where the pair is settled or no number suffices).
    """
    chosen = list(itertools.combinations(range(len(strategies.labels)), 2)) if pairs is None else list(pairs)
    drawn = np.array([bool((row != row[:1])[:, np.isfinite(row).all(axis=0)].any()) for row in strategies.values])
    pool = None
    if pool_seeds:
        both = strategies.values[drawn]
        pool = pooled_seeds(both[..., np.isfinite(both).all(axis=(0, 1))])
    rows = [
        _pair_row(strategies, pair, level, seed, len(chosen), pool if drawn[list(pair)].all() else None)
        for pair in chosen
    ]
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    frame["p_holm"] = holm(frame["p"].to_numpy())
    frame["differs"] = frame["p_holm"] <= 1 - level + 1e-12
    frame["more_samples"] = frame["more_samples"].astype("Int64").mask(frame["differs"])
    for name in ("more", "fewer"):
        frame[name] = frame[name].astype("Int64")
    return frame


def _pair_row(
    strategies: Strategies, pair: Pair, level: float, seed: int, family: int, pool: SeedPool | None
) -> dict[str, object]:
    first, second = pair
    differences, clusters = complete(strategies.values[first] - strategies.values[second], strategies.clusters)
    estimate = paired_interval(differences, clusters, level, pool)
    tested = pair_test(differences, clusters, seed, pool)
    error = with_pool(mean_error(differences, clusters), pool)
    discordance = None
    if tested.test == "McNemar exact" and tested.more is not None and tested.fewer is not None:
        discordance = (tested.more + tested.fewer) / error.n
    return {
        "first": first,
        "second": second,
        "n": estimate.n,
        "n_units": estimate.n_units,
        "difference": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "method": estimate.method,
        "more": tested.more,
        "fewer": tested.fewer,
        "p": tested.p,
        "test": tested.test,
        "more_samples": samples_to_settle(error, (1 - level) / family, discordance),
    }


def samples_to_settle(error: MeanError, alpha: float, discordance: float | None = None) -> int | None:
    """How many more samples would show the observed difference with 80 % power.

    Discordance psi known (0/1 values): Connor 1987, Biometrics 43(1), n = (z_a sqrt(psi) +
    z_b sqrt(psi - delta^2))^2 / delta^2. Else n = V1 n (z_a + z_b)^2 / delta^2, with the seeds'
    part of the variance, which more samples do not shrink, taken off first. With clusters the new
    samples are taken to come in clusters like the present ones.

    Args:
        error: of the difference.
        alpha: two-sided level of the test; the family's level over the number of its pairs.
        discordance: share of samples on which exactly one of the two is right.

    Returns:
        Samples beyond those there are; 0: enough already (the pair was unlucky). None: no number
        does, because the difference is nil or the seeds alone vary too much.
    """
    delta, n = abs(error.value), error.n
    if not math.isfinite(error.sample_variance) or delta <= TIE:
        return None
    z_alpha, z_beta = float(-scipy.special.ndtri(alpha / 2)), float(scipy.special.ndtri(POWER))
    if discordance is not None:
        root = z_alpha * math.sqrt(discordance) + z_beta * math.sqrt(max(discordance - delta**2, 0))
        needed = root**2 / delta**2
    else:
        allowed = (delta / (z_alpha + z_beta)) ** 2 - (error.total - error.sample_variance)
        needed = error.sample_variance * n / allowed if allowed > 0 else math.inf
    return max(0, math.ceil(needed) - n) if needed <= MOST_SAMPLES else None


def best_of(means: FloatArray) -> int:
    """Row of the highest mean, the first of equals; NaN is passed over."""
    return int(np.flatnonzero(means >= np.nanmax(means) - TIE)[0])


def may_be_best(all_pairs: pd.DataFrame, n_strategies: int, level: float = LEVEL) -> BoolArray:
    """Strategies that may be the best of all: the truly best is among them with probability `level`.

    A strategy is out when some other is shown to be better by a one-sided test at (1 - level) / (A - 1),
    A strategies. The truly best can only be lost by one of A - 1 false claims, all against it, so pairs among
    the others need no allowance: Holm over all A (A - 1) / 2 pairs would keep far more (Hsu 1984, Annals of
    Statistics 12(3), multiple comparisons with the best; Gupta 1965's subset selection).

    Args:
        all_pairs: from `compare_pairs` over all pairs. Its tests are symmetric, so half of p is the
            one-sided p of the better one.
        n_strategies: A.
        level: of the group.

    Returns:
        (strategies,)
    """
    inside = np.ones(n_strategies, dtype=bool)
    if all_pairs.empty:
        return inside
    shown = all_pairs[all_pairs["p"] / 2 <= (1 - level) / (n_strategies - 1) + 1e-15]
    inside[shown["second"][shown["difference"] > 0].to_numpy(dtype=int)] = False
    inside[shown["first"][shown["difference"] < 0].to_numpy(dtype=int)] = False
    return inside


def best_shares(values: FloatArray, clusters: IntArray | None, replicates: int = 2000, seed: int = 0) -> FloatArray:
    """How often each strategy has the highest mean when samples (whole clusters) are drawn again; ties are split.

    Args:
        values: (strategies, samples) means over seeds, which are given; NaN is missing.
        clusters: (samples,) codes.
        replicates: resamples (Efron and Tibshirani 1993).
        seed: of the stream.

    Returns:
        (strategies,)
    """
    known = np.isfinite(values)
    sums, counts = (unit_sums(x, clusters) for x in (np.where(known, values, 0.0), known.astype(float)))
    wins = np.zeros(len(values))
    for weights in bootstrap_weights(sums.shape[-1], replicates, seed):
        with np.errstate(invalid="ignore", divide="ignore"):
            # A strategy that a resample leaves without samples cannot be its best.
            means = np.nan_to_num((weights @ sums.T) / (weights @ counts.T), nan=-np.inf)
        top = means >= means.max(axis=1, keepdims=True) - TIE
        wins += (top / top.sum(axis=1, keepdims=True)).sum(axis=0)
    return wins / replicates
