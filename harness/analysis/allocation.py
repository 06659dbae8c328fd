"""What limits a difference between two strategies, and what would shorten its interval most per token.

Shares of the variance of single results do not say it: which sample is asked moves all strategies alike and
drops out of a difference, while a seed's effect on one strategy stays, however small its share.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from harness.analysis.intervals import LEVEL, half_width
from harness.analysis.sampling_error import MeanError, mean_error
from harness.analysis.strategies import Strategies, by_axes
from harness.analysis.table import FloatArray, IntArray, ValueTable

TIMES = 2
"""By how much samples or seeds are multiplied; both cost the same tokens, one pass per prompt."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """The variance of a difference between two (template, K), the mean over all pairs, and what more would bring."""

    n: int
    n_seeds: int
    samples: float
    """Variance of the difference from samples that suit one strategy (strategy x sample)."""
    seeds: float
    """From draws of demonstrations that suit one (strategy x seed); NaN with one seed."""
    both: float
    """From the two together (strategy x seed x sample); with one seed it is part of `samples`."""
    half_width: float
    """Of the interval of a difference."""
    with_samples: float
    """The same with `TIMES` as many samples."""
    with_seeds: float
    """The same with `TIMES` as many seeds; NaN with one seed."""

    @property
    def buy(self) -> str:
        """`samples` or `seeds`: what shortens the interval more for the same tokens; empty where it cannot be told."""
        if not math.isfinite(self.with_samples) or not math.isfinite(self.with_seeds):
            return ""
        return "seeds" if self.with_seeds < self.with_samples else "samples"


def allocation(values: FloatArray, clusters: IntArray | None = None, level: float = LEVEL) -> Allocation:
    """What limits a difference.

    V1, V2 and V3 of `mean_error` are quadratic in the values, so their mean over all pairs of A strategies
    is 2 / (A - 1) times their sum over strategies less the mean of all. By their expectations the parts are
    V1 - V3, V2 - V3 (both at least 0) and V3; the first shrinks as 1/n, the second as 1/S, the third as both.

    Args:
        values: (strategies, seeds, samples), two strategies or more; samples with a NaN are left out.
        clusters: (samples,) codes.
        level: of the intervals.
    """
    kept = np.isfinite(values).all(axis=(0, 1))
    table = values[..., kept]
    codes = None if clusters is None else clusters[kept]
    errors = [mean_error(row, codes) for row in table - table.mean(axis=0)]
    factor = 2 / (len(table) - 1)
    v1, v2, v3 = (
        factor * sum(getattr(error, name) for error in errors)
        for name in ("sample_variance", "seed_variance", "noise_variance")
    )
    n_seeds, n = table.shape[1:]
    several = n_seeds > 1
    samples, seeds = max(v1 - v3, 0.0), max(v2 - v3, 0.0) if several else math.nan

    def width(more_samples: int, more_seeds: int) -> float:
        noise = v3 / (more_samples * more_seeds)
        error = MeanError(
            0.0,
            samples / more_samples + noise,
            more_samples * (errors[0].df + 1) - 1,
            seeds / more_seeds + noise if several else 0.0,
            noise,
            n_seeds * more_seeds,
            n * more_samples,
            errors[0].n_units * more_samples,
        )
        return half_width(error, level)

    return Allocation(
        n=n,
        n_seeds=n_seeds,
        samples=samples,
        seeds=seeds,
        both=v3,
        half_width=width(1, 1),
        with_samples=width(TIMES, 1),
        with_seeds=width(1, TIMES) if several else math.nan,
    )


def allocations(table: ValueTable, level: float = LEVEL) -> pd.DataFrame:
    """One row per run and model with two (template, K) or more, and `buy`; K = 0 is left out beside other Ks."""
    rows = []
    for key, cells in table.cells.groupby(["run", "model"], sort=False):
        if (cells["k"] > 0).any():
            cells = cells[cells["k"] > 0]
        if cells[["template", "k"]].drop_duplicates().shape[0] < 2:
            continue
        strategies: Strategies = by_axes(table.only(cells), ["template", "k"])
        if np.isfinite(strategies.values).all(axis=(0, 1)).sum() < 2:
            continue
        found = allocation(strategies.values, strategies.clusters, level)
        rows.append(dict(zip(("run", "model"), key, strict=True)) | asdict(found) | {"buy": found.buy})
    return pd.DataFrame(rows)
