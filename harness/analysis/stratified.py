"""Means over tasks that were sampled apart: their errors put together, and intervals of them.

Values of a task are seed to (samples,). Refuses to know what the values mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import special

from harness.analysis.intervals import half_width, seeds_interval, wilson_form, wilson_of_share
from harness.analysis.paired import TIE
from harness.analysis.sampling_error import MeanError, complete, mean_error
from harness.analysis.table import FloatArray, IntArray
from harness.analysis.task_values import Seeded


def error_of(values: Seeded, clusters: IntArray | None) -> MeanError:
    """Of one task: the mean over its samples and seeds; samples without a value under some seed are left out."""
    table = np.array(list(values.values()))
    if (table == table[:1]).all():
        table = table[:1]
    return mean_error(*complete(table, clusters))


def combined(errors: Sequence[MeanError]) -> MeanError:
    """The error of a mean over tasks that were sampled apart: variances add up, degrees of freedom after Satterthwaite.

    Args:
        errors: one per task.
    """
    count = len(errors)
    own, seeds, noise = (
        np.array([getattr(error, name) for error in errors]) / count**2
        for name in ("sample_variance", "seed_variance", "noise_variance")
    )
    of_samples = _satterthwaite(own, np.array([error.df for error in errors]))
    of_seeds = _satterthwaite(seeds, np.array([max(error.n_seeds - 1, 1) for error in errors]))
    return MeanError(
        float(np.mean([error.value for error in errors])),
        float(own.sum()),
        of_samples,
        float(seeds.sum()),
        float(noise.sum()),
        max(error.n_seeds for error in errors),
        sum(error.n for error in errors),
        sum(error.n_units for error in errors),
        max(1, round(of_seeds)) if seeds.sum() > 0 else 0,
    )


def combined_difference(errors: Sequence[MeanError]) -> MeanError:
    """Of a paired difference over tasks, with one unit more at +1 and one at -1 in all tasks together.

    As of `sampling_error.steadied`: where few samples differ, the variance of those seen is too small.

    Args:
        errors: of the differences, one per task.
    """
    error, count = combined(errors), len(errors)
    spare = 2 * float(np.mean([(count * max(one.n_units, 1)) ** -2.0 for one in errors]))
    return replace(error, sample_variance=error.sample_variance + spare)


def _satterthwaite(variances: FloatArray, df: FloatArray) -> float:
    total = variances.sum()
    if not np.isfinite(total) or total <= 0:
        return float(df.sum())
    return float(total**2 / (variances**2 / df).sum())


def interval(error: MeanError, level: float) -> tuple[float, float]:
    """Of a mean; of a share in the form of Wilson's, as of `intervals.mean_interval`."""
    half = half_width(error, level)
    if not math.isfinite(half):
        return math.nan, math.nan
    if not 0 <= error.value <= 1:
        return error.value - half, error.value + half
    if error.total == 0 or error.value in (0.0, 1.0):
        return wilson_of_share(error.value, error.n_units, level)
    return wilson_form(error.value, half)


def interval_over_tasks(means: FloatArray, level: float) -> tuple[float, float]:
    """On tasks like these, by Student's t of their means, of shares in the form of Wilson's; NaN of a single one."""
    found = seeds_interval(means, level)
    is_share = math.isfinite(found.low) and 0 < found.value < 1 and means.min() >= 0 and means.max() <= 1
    if is_share:
        return wilson_form(found.value, found.high - found.value)
    return found.low, found.high


def probability_over_tasks(means: FloatArray) -> float:
    """Two-sided p of a mean of nil on tasks like these, from the spread of these alone; NaN with fewer than two."""
    if len(means) < 2 or not np.isfinite(means).all():
        return math.nan
    error = float(means.std(ddof=1)) / math.sqrt(len(means))
    if error == 0:
        return 1.0 if abs(float(means.mean())) <= TIE else 0.0
    return float(2 * special.stdtr(len(means) - 1, -abs(float(means.mean())) / error))
