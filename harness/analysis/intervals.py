"""How sure a mean or a difference is: intervals, and the tail probabilities that they are made of.

Every interval of the room comes from here. Values are (samples,) or (seeds, samples); clusters are
codes of dependent samples. Refuses to know what the values mean, and how a variance is estimated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import scipy

from harness.analysis.cells import wilson_interval
from harness.analysis.discordance import score_interval
from harness.analysis.sampling_error import MeanError, SeedPool, complete, mean_error, steadied, with_pool
from harness.analysis.table import FloatArray, IntArray, is_binary

LEVEL = 0.95
SHORTER_FROM = 3
"""Seeds from which on intervals are shorter than those of the tests. With two, an interval that covers
0.93 to 0.97 would have to jump to many times its length where V2 passes a threshold."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval."""

    value: float
    low: float
    high: float
    method: str
    n: int
    """Samples that the figure rests on."""
    n_units: int
    """Independent units among them: clusters, or the samples themselves."""


def tail_probability(error: MeanError, distance: float) -> float:
    """Two-sided p-value of a mean this far from the supposed one.

    Without seeds Student's t. With seeds the generalised p-value of a crossed random design
    (Tsui and Weerahandi 1989; Hannig 2009): the seed part of the variance has only S-1 degrees of
    freedom, so its uncertainty is integrated over, 2 P(T > distance / sqrt(V1 + max(V2/c - V3, 0)))
    with c distributed as chi-square(S-1)/(S-1). It never rejects more often than it says, with two
    or three seeds far less often.
    """
    if not math.isfinite(error.sample_variance):
        return math.nan
    if not error.has_seeds:
        if error.sample_variance == 0:
            return 1.0 if distance == 0 else 0.0
        return float(2 * scipy.special.stdtr(error.df, -abs(distance) / math.sqrt(error.sample_variance)))
    return _seed_tail(error, distance, error.seed_df)


def interval_probability(error: MeanError, distance: float) -> float:
    """Like `tail_probability`, of the intervals; the two are the same without seeds and with two seeds.

    From three seeds on the variance W of the seeds' means, which V2 estimates, has the density
    W^-1 (1 + ((V1 - V3) / 2W)^2) before V2 is seen, in place of W^-1. Given V2, W is then
    V2 (S-1) / chi-square(S-1) or, with odds (1 + 2/(S-1)) ((V1-V3) / 2 V2)^2, V2 (S-1) / chi-square(S+3).
    The form is that of the probability matching prior of the Behrens-Fisher problem,
    W^-1 (1 + (V1-V3) / W) (Ghosh and Kim 2001, Canadian Journal of Statistics 29(1)), with the power
    and the factor that cover best with three seeds: 0.94 to 0.97 where V1 is three times V3 or more; there
    the p-value's interval covers up to 0.985 and the matching prior's down to 0.936. Tests must not err
    more often than they say for any size of the seed effect, so p-values keep W^-1.
    """
    longer = tail_probability(error, distance)
    steady = max(error.sample_variance - error.noise_variance, 0.0)
    if error.n_seeds < SHORTER_FROM or not error.has_seeds or not steady or error.pooled_df:
        return longer
    df = error.n_seeds - 1
    weight = (1 + 2 / df) * steady**2
    share = weight / (weight + 4 * error.seed_variance**2)
    return share * _seed_tail(error, distance, df + 4) + (1 - share) * longer


def _seed_tail(error: MeanError, distance: float, df: int) -> float:
    points, weights = _seed_grid(error.seed_df, df)
    # Means of counts may agree to the last sample by chance. Seeds have an effect no smaller than that can show then.
    seed_variance = max(error.seed_variance, error.noise_variance / max(error.n_units, 1))
    variances = error.sample_variance + np.maximum(seed_variance / points - error.noise_variance, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        tails = np.where(
            variances > 0, 2 * scipy.special.stdtr(error.df, -abs(distance) / np.sqrt(variances)), distance == 0
        )
    return float((tails * weights).sum())


@lru_cache(maxsize=64)
def _seed_grid(own_df: int, df: int) -> tuple[FloatArray, FloatArray]:
    """Quadrature over chi-square(df) / own_df, fine in the lower tail, which decides small p-values."""
    edges = 1 / (1 + np.exp(-np.linspace(-30, 30, 601)))
    edges[0], edges[-1] = 0.0, 1.0
    middles = (edges[1:] + edges[:-1]) / 2
    return 2 * scipy.special.gammaincinv(df / 2, middles) / own_df, np.diff(edges)


def half_width(error: MeanError, level: float = LEVEL) -> float:
    """Half the length of the interval around a mean: where `interval_probability` is 1 - level."""
    alpha = 1 - level
    if not math.isfinite(error.sample_variance):
        return math.nan
    if not error.has_seeds:
        return float(scipy.special.stdtrit(error.df, 1 - alpha / 2)) * math.sqrt(error.sample_variance)
    least = max(math.sqrt(error.total), 1e-12)
    high = least
    while interval_probability(error, high) > alpha:
        high *= 2
    return float(scipy.optimize.brentq(lambda x: interval_probability(error, x) - alpha, 0.0, high, xtol=least * 1e-6))


def method_of(error: MeanError, clustered: bool) -> str:
    """How an interval from `half_width` came about, for the record."""
    parts = ["cluster-robust t" if clustered else "t"]
    if error.n_seeds > 1:
        parts.append(f"{error.n_seeds} seeds {'pooled' if error.pooled_df else 'as drawn at random'}")
    return ", ".join(parts)


def mean_interval(values: FloatArray, clusters: IntArray | None = None, level: float = LEVEL) -> Estimate:
    """The mean of values in 0..1 over samples (and seeds) that stand for more of their kind.

    Wilson's interval for independent 0/1 values of one cell. Else `half_width` h in the form of
    Wilson's: with r = h^2 / (m (1-m)) the interval is (m + r/2 +- sqrt(h^2 + r^2/4)) / (1 + r), which is
    Wilson's with an effective number of samples (Dean and Pagano 2015, Journal of Survey
    Statistics and Methodology 3(4)) and covers better than m +- h near 0 and 1 and for clusters of
    unequal size. When all values are equal, no variance can be estimated, and Wilson's interval is
    taken with the number of independent units. Values outside 0..1 have m +- h.

    Args:
        values: (samples,) or (seeds, samples); samples with a NaN are left out.
        clusters: (samples,) codes.
    """
    table, codes = complete(np.atleast_2d(values), clusters)
    table = _one_row_if_equal(table)
    error = mean_error(table, codes)
    if codes is None and len(table) == 1 and is_binary(table):
        low, high = wilson_interval(int(table.sum()), error.n, level)
        return Estimate(error.value, low, high, "Wilson", error.n, error.n_units)
    is_share = bool(table.size and table.min() >= 0 and table.max() <= 1)
    if is_share and error.total == 0:
        low, high = wilson_of_share(error.value, error.n_units, level)
        return Estimate(error.value, low, high, "Wilson over units", error.n, error.n_units)
    half = half_width(error, level)
    low, high, method = error.value - half, error.value + half, method_of(error, codes is not None)
    if is_share and math.isfinite(half):
        low, high = wilson_form(error.value, half)
        method += ", Wilson form"
    return Estimate(error.value, low, high, method, error.n, error.n_units)


def wilson_of_share(share: float, n: int, level: float) -> tuple[float, float]:
    """Wilson's interval of a mean of values in 0..1 that was not counted as successes of n."""
    if share in (0.0, 1.0):
        return wilson_interval(round(share * n), n, level)
    return wilson_form(share, float(scipy.special.ndtri((1 + level) / 2)) * math.sqrt(share * (1 - share) / n))


def wilson_form(mean: float, half: float) -> tuple[float, float]:
    """The interval mean +- half of a mean strictly within 0..1, bent to stay there."""
    ratio = half**2 / (mean * (1 - mean))
    centre, bent = (mean + ratio / 2) / (1 + ratio), math.sqrt(half**2 + ratio**2 / 4) / (1 + ratio)
    return centre - bent, centre + bent


def paired_interval(
    differences: FloatArray,
    clusters: IntArray | None = None,
    level: float = LEVEL,
    pool: SeedPool | None = None,
    added_variance: float = 0.0,
) -> Estimate:
    """The mean of paired differences of values in 0..1.

    Independent differences of 0/1 values: Tango's score interval (`discordance.score_interval`).
    Else `half_width` of the `steadied` error. When all differences are equal, no variance can be estimated, and
    the interval is as wide as Tango's with as many independent units that all agree. Differences within
    -1..1 have an interval within -1..1.

    Args:
        differences: (samples,) or (seeds, samples), without NaN.
        clusters: (samples,) codes.
        level: of the interval.
        pool: the seeds' variance over all strategies, to be used in place of the pair's own.
        added_variance: of a figure that is put to the mean, over samples, beside that of the differences.
    """
    table = _one_row_if_equal(np.atleast_2d(differences))
    error = with_pool(mean_error(table, clusters), pool)
    error = replace(error, sample_variance=error.sample_variance + added_variance)
    if not added_variance and clusters is None and len(table) == 1 and np.isin(table, (-1.0, 0.0, 1.0)).all():
        low, high = score_interval(int((table == 1).sum()), int((table == -1).sum()), error.n, level)
        return Estimate(error.value, low, high, "Tango", error.n, error.n_units)
    centre, method = error.value, "Tango over units"
    if error.total == 0:
        half = score_interval(0, 0, error.n_units, level)[1]
    else:
        method = method_of(error, clusters is not None)
        steady = steadied(error, table, clusters)
        method += "" if steady is error else ", 2 units added"
        centre, half = steady.value, half_width(steady, level)
    low, high = centre - half, centre + half
    if table.size and np.abs(table).max() <= 1:
        low, high = np.maximum(low, -1.0), np.minimum(high, 1.0)
    return Estimate(error.value, float(low), float(high), method, error.n, error.n_units)


def seeds_interval(seed_means: FloatArray, level: float = LEVEL) -> Estimate:
    """The mean over demonstration seeds on these very samples: Student's t with S-1 degrees of
    freedom; (nan, nan) with one seed.

    Args:
        seed_means: (seeds,) a figure per seed, each over the same samples.
    """
    known = seed_means[np.isfinite(seed_means)]
    n = len(known)
    mean = float(known.mean()) if n else math.nan
    if n < 2:
        return Estimate(mean, math.nan, math.nan, "t over seeds", n, n)
    half = float(scipy.special.stdtrit(n - 1, (1 + level) / 2)) * float(known.std(ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, "t over seeds", n, n)


def _one_row_if_equal(table: FloatArray) -> FloatArray:
    """Seeds that make no difference at all (K = 0) are one observation."""
    return table[:1] if bool((table == table[:1]).all()) else table
