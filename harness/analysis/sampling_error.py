"""What the variance of a mean is made of: samples, clusters of dependent samples, seeds.

Values are (samples,) or (seeds, samples); clusters are codes of dependent samples. Refuses to know what the
values mean, and how long an interval is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from harness.analysis.table import FloatArray, IntArray

FEW_UNITS = 30
"""Below so many samples or clusters signs are flipped, too, instead of trusting the t distribution alone."""
FEW_DIFFERING = 12
"""Differing clusters, among many, from which on Student's t holds by itself."""


@dataclass(frozen=True, slots=True)
class SeedPool:
    """The variance of a strategy's mean over seeds, less what all strategies share, pooled over strategies."""

    variance: float
    """Of a difference of two: twice that of one."""
    df: int


@dataclass(frozen=True, slots=True)
class MeanError:
    """Sampling variance of a mean over samples and, where they are drawn, seeds."""

    value: float
    sample_variance: float
    """Of the mean, from samples (or clusters), the seeds being given."""
    df: float
    """Degrees of freedom of `sample_variance`."""
    seed_variance: float = 0.0
    """Variance of the seeds' means over their number; holds seed effect and noise."""
    noise_variance: float = 0.0
    """The part of `seed_variance` that sample x seed noise alone would give."""
    n_seeds: int = 1
    n: int = 0
    n_units: int = 0
    pooled_df: int = 0
    """Degrees of freedom of `seed_variance` where it is pooled over strategies; 0: n_seeds - 1, its own."""

    @property
    def has_seeds(self) -> bool:
        """Whether seeds made any difference at all; else they are one observation."""
        return self.n_seeds > 1 and (self.seed_variance > 0 or self.noise_variance > 0)

    @property
    def seed_df(self) -> int:
        """Degrees of freedom of `seed_variance`."""
        return self.pooled_df or self.n_seeds - 1

    @property
    def total(self) -> float:
        """Variance of the mean over samples and seeds (method of moments, never below the part
        that samples alone explain)."""
        return self.sample_variance + max(self.seed_variance - self.noise_variance, 0.0)


def mean_error(values: FloatArray, clusters: IntArray | None = None) -> MeanError:
    """The mean and what its variance is made of.

    Samples: V1 = sum_g (sum_{i in g} (x_i - m))^2 / (1 - n_g/n) / n^2, the cluster-robust variance
    (Miller 2024, arXiv 2411.00640) with the correction CR2 of Bell and McCaffrey 2002, which is
    G/(G-1) for clusters of one size and s^2/n without clusters. Degrees of freedom after the
    latter; G-1 for clusters of one size.
    Seeds: V2 = s^2(seed means)/S and V3, the noise in V2, from the sample x seed residuals in the
    same way as V1. V1 + V2 - V3 is the ANOVA estimate for a crossed random design.

    Args:
        values: (samples,) or (seeds, samples), without NaN.
        clusters: (samples,) non-negative codes, need not be consecutive.
    """
    table = np.atleast_2d(values)
    n_seeds, n = table.shape
    if n == 0:
        return MeanError(math.nan, math.nan, math.nan, n_seeds=n_seeds)
    per_sample = table.mean(axis=0)
    mean = float(per_sample.mean())
    if clusters is None:
        codes, sizes = None, np.ones(n)
    else:
        codes, sizes = clusters, np.bincount(clusters).astype(float)
        sizes = sizes[sizes > 0]
    share = sizes / n
    units = len(sizes)
    if units < 2:
        return MeanError(mean, math.nan, math.nan, n_seeds=n_seeds, n=n, n_units=units)
    weight = 1 / ((1 - share) * n**2)
    v1 = float((_unit_sums(per_sample - mean, codes) ** 2 * weight).sum())
    lever = share**2 / (1 - share)
    df = 1 / float((share**2).sum() + lever.sum() ** 2 - (lever**2).sum())
    v2 = v3 = 0.0
    if n_seeds > 1:
        seed_means = table.mean(axis=1)
        v2 = float(seed_means.var(ddof=1)) / n_seeds
        residual = table - per_sample - (seed_means - mean)[:, None]
        squares = sum(float((_unit_sums(row, codes) ** 2 * weight).sum()) for row in residual)
        v3 = squares / (n_seeds * (n_seeds - 1))
    return MeanError(mean, v1, df, v2, v3, n_seeds, n, units)


def _unit_sums(values: FloatArray, codes: IntArray | None) -> FloatArray:
    if codes is None:
        return values
    return np.asarray(np.bincount(codes, values)[np.bincount(codes) > 0], dtype=np.float64)


def pooled_seeds(values: FloatArray) -> SeedPool | None:
    """What draws of demonstrations add to a difference of two strategies, if they move all strategies equally much.

    The mean square of the strategy x seed residuals of the means has (A - 1)(S - 1) degrees of freedom, where a pair
    by itself has S - 1: with two or three seeds the difference between knowing and guessing. Where draws
    move one strategy more than others its differences are claimed too readily, those of the others too rarely.

    Args:
        values: (strategies, seeds, samples), without NaN, of strategies with demonstrations.

    Returns:
        None with fewer than two strategies or seeds.
    """
    count, n_seeds, n = values.shape
    df = (count - 1) * (n_seeds - 1)
    if not df or not n:
        return None
    means = values.mean(axis=2)
    residual = means - means.mean(axis=0) - means.mean(axis=1, keepdims=True) + means.mean()
    return SeedPool(2 * float((residual**2).sum()) / df / n_seeds, df)


def with_pool(error: MeanError, pool: SeedPool | None) -> MeanError:
    """The error of a difference with the pooled variance of seeds in place of its own."""
    if pool is None or error.n_seeds == 1:
        return error
    return replace(error, seed_variance=pool.variance, pooled_df=pool.df)


def steadied(error: MeanError, differences: FloatArray, clusters: IntArray | None) -> MeanError:
    """The error of a mean difference with one more unit at +1 and one at -1, as far as values in 0..1 can differ.

    Where only a few units differ, or one side wins rarely but by much, the variance of those seen is too
    small and Student's t claims too much. The two units, which Bonett and Price 2012 (Journal of
    Educational and Behavioral Statistics 37(4)) add for 0/1 values, hardly matter among many. Differences beyond 1 have
    units as large as the largest of them.

    Whole clusters rarely differ by 1 in all their samples: they get the two units only where fewer than
    `FEW_DIFFERING` of at least `FEW_UNITS` differ at all. Among few clusters they would drown what there is.

    Args:
        error: of the differences, from `mean_error`.
        differences: (seeds, samples).
        clusters: (samples,) codes.
    """
    units = error.n_units
    if units < 2:
        return error
    if clusters is not None:
        differing = np.count_nonzero(np.bincount(clusters, (differences != 0).any(axis=0)))
        if units < FEW_UNITS or differing >= FEW_DIFFERING:
            return error
    size = max(1.0, float(np.abs(differences).max()))
    total = units + 2
    value = error.value * units / total
    squares = error.sample_variance * units * (units - 1) + units * error.value**2 + 2 * size**2 - total * value**2
    return replace(error, value=value, sample_variance=squares / (total * (total - 1)), df=error.df + 2)


def complete(table: FloatArray, clusters: IntArray | None) -> tuple[FloatArray, IntArray | None]:
    """The samples without a NaN in any row, and their clusters."""
    kept = np.isfinite(table).all(axis=0)
    if kept.all():
        return table, clusters
    return table[:, kept], None if clusters is None else clusters[kept]
