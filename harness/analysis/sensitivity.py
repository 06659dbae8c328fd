"""How much the wording of a prompt matters: best, worst and mean over templates.

Source: Mizrahi et al. 2024 (arXiv 2401.00595) for the four figures; spread as in Sclar et al. 2024
(arXiv 2310.11324).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from harness.analysis.intervals import LEVEL, mean_interval
from harness.analysis.resampling import bootstrap_weights, unit_sums
from harness.analysis.strategies import by_axes
from harness.analysis.table import FloatArray, IntArray, ValueTable

REPLICATES = 1000


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Figures over templates, all on the same samples."""

    n_templates: int
    n: int
    """Samples scored under all templates."""
    best: float
    """MaxP; chosen by looking, so too high as a forecast (see `selection`)."""
    worst: float
    mean: float
    """AvgP."""
    mean_low: float
    mean_high: float
    spread: float
    """best - worst."""
    spread_by_chance: float
    """The spread to be expected on so many samples and seeds if all templates were equally good; with one seed it
    is of this draw of demonstrations."""
    saturation: float
    """1 - (MaxP - AvgP): near 1 when the choice of a template hardly matters."""
    combined: float
    """saturation x MaxP (Mizrahi's combined performance score)."""


def sensitivity(
    values: FloatArray,
    clusters: IntArray | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = LEVEL,
) -> Sensitivity:
    """Figures over templates.

    `spread_by_chance` is the mean spread over resamples of samples (clusters) after each template's mean has
    been taken off its values. With several seeds each template's mean is also moved as seeds move it: by
    normal draws whose variance is the template x seed component over the number of seeds.

    Args:
        values: (templates, samples) or (templates, seeds, samples) in 0..1; samples with a NaN
            are left out.
        clusters: (samples,) codes.
        replicates: resamples.
        seed: of the resamples.
        level: of the mean's interval.
    """
    table = values if values.ndim == 3 else values[:, None, :]
    kept = np.isfinite(table).all(axis=(0, 1))
    table = table[..., kept]
    codes = None if clusters is None else np.unique(clusters[kept], return_inverse=True)[1]
    means = table.mean(axis=(1, 2)) if kept.any() else np.full(len(table), np.nan)
    average = mean_interval(table.mean(axis=0), codes, level)
    best, worst = float(means.max()), float(means.min())
    saturation = 1 - (best - average.value)
    return Sensitivity(
        n_templates=len(table),
        n=average.n,
        best=best,
        worst=worst,
        mean=average.value,
        mean_low=average.low,
        mean_high=average.high,
        spread=best - worst,
        spread_by_chance=_chance_spread(table, codes, replicates, seed) if kept.any() else np.nan,
        saturation=saturation,
        combined=saturation * best,
    )


def _chance_spread(table: FloatArray, clusters: IntArray | None, replicates: int, seed: int) -> float:
    values = table.mean(axis=1)
    deviation = math.sqrt(_seed_variance(table, clusters))
    rng = np.random.default_rng([seed, 1])
    centred = values - values.mean(axis=1, keepdims=True)
    sums = unit_sums(centred, clusters)
    sizes = unit_sums(np.ones(values.shape[1]), clusters)
    total = 0.0
    for weights in bootstrap_weights(sums.shape[1], replicates, seed):
        means = (weights @ sums.T) / (weights @ sizes)[:, None]
        means = means + deviation * rng.normal(size=means.shape)
        total += float(np.ptp(means, axis=1).sum())
    return total / replicates


def _seed_variance(table: FloatArray, clusters: IntArray | None) -> float:
    """What seeds that suit templates differently add to the variance of a template's mean, by the method of moments."""
    templates, seeds, n = table.shape
    freedom = (templates - 1) * (seeds - 1)
    units = n if clusters is None else int(clusters.max()) + 1
    if not freedom or units < 2:
        return 0.0
    residual = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean(axis=(0, 1))
    means = residual.mean(axis=2)
    noise = unit_sums(residual - means[..., None], clusters) / n
    noise_variance = float((noise**2).sum()) * units / (units - 1) / freedom
    found: float = max(float((means**2).sum()) / freedom - noise_variance, 0.0) / seeds
    return found


def sensitivity_by_strategy(table: ValueTable, seed: int = 0) -> pd.DataFrame:
    """One row of figures per (run, model, K), averaged over seeds; empty with one template.

    Args:
        table: of cells with values in 0..1.
        seed: of the resamples.
    """
    rows = []
    for key, cells in table.cells.groupby(["run", "model", "k"], sort=False):
        if cells["template"].nunique() < 2:
            continue
        strategies = by_axes(table.only(cells), ["template"])
        figures = asdict(sensitivity(strategies.values, strategies.clusters, seed=seed))
        rows.append(dict(zip(("run", "model", "k"), key, strict=True)) | {"n_seeds": len(strategies.seeds)} | figures)
    return pd.DataFrame(rows)
