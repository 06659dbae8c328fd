"""What a race would cost, before it is run: simulated with named figures or like a finished run, and a bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy

from harness.analysis.compared_runs import values_of_runs
from harness.analysis.race_rules import Rules
from harness.analysis.racing import replay
from harness.analysis.table import FloatArray
from harness.core.errors import ConfigError

MEAN, SPREAD, AGREEMENT = 0.75, 0.03, 0.90
"""Of the named figures: accuracies lie around 0.75 with this standard deviation, and two strategies are both right or
both wrong on nine samples of ten."""
RACES = 5
MOST_VALUES = 5_000_000
"""Scores that are simulated at most: on larger grids a race takes as many records of more."""
LEAST_PILOT = 100


@dataclass(frozen=True)
class RaceCost:
    """Shares of the full grid's records."""

    expected: float
    bound: float
    """Nearly what any method that compares pairs needs on average; see `lower_bound`."""
    basis: str
    """What the figures suppose, in words."""


def race_cost(n_strategies: int, n_samples: int, rules: Rules, pilot: str | None) -> RaceCost:
    """What a race of so many strategies on so many samples costs.

    Args:
        n_strategies: two or more.
        n_samples: of the race.
        rules: of the race.
        pilot: a run directory whose scores are resampled; None takes the named figures.

    Raises:
        ConfigError: a pilot with too few samples that all of its strategies have.
        RunDirError: no run directory.
    """
    rng = np.random.default_rng(0)
    known = None if pilot is None else _pilot_values(pilot)
    basis = (
        f"accuracies spread by {SPREAD:g} around {MEAN:g} and two strategies agree on {AGREEMENT:.0%} of the samples "
        "(race.pilot=RUN_DIR takes those of a finished run)"
        if known is None
        else f"strategies and samples are like the {known.shape[0]} x {known.shape[1]:,} of '{pilot}'"
    )
    n_raced = min(n_samples, max(LEAST_PILOT, MOST_VALUES // n_strategies))
    n_races = max(1, min(RACES, MOST_VALUES // (n_strategies * n_raced)))
    costs, bounds = [], []
    for _ in range(n_races):
        if known is None:
            values = _drawn(rng, n_strategies, n_raced)
        else:
            values = known[:, rng.integers(0, known.shape[1], n_raced)]
        race = replay(values, np.ones(n_raced, dtype=np.int64), rules)
        costs.append(race.scored.sum() / len(values) / n_samples)
        bounds.append(lower_bound(values, rules, n_samples))
    return RaceCost(float(np.mean(costs)), float(np.mean(bounds)), basis)


def lower_bound(values: FloatArray, rules: Rules, n_samples: int) -> float:
    """The share of the records that pairwise comparisons need at least, by what they tell of who is better.

    Strategy i needs about `N = 2 kl psi / (gap + epsilon)^2` samples: psi is how often it and the best differ, kl the
    information that separates an error of 1 - confidence from its opposite. Of n samples drawn without replacement
    `x / (1 + x)` of them, x = N / n. Change of measure as of Kaufmann, Cappe and Garivier (2016, JMLR 17(1)), with
    normal differences.

    Args:
        values: (strategies, samples) scores.
        rules: of the race.
        n_samples: of the full grid.
    """
    error, n = 1 - rules.confidence, n_samples
    information = error * math.log(error / (1 - error)) + (1 - error) * math.log((1 - error) / error)
    means = values.mean(axis=1)
    second, best = np.argsort(means, kind="stable")[-2:]
    variances = ((values - values[best]) ** 2).mean(axis=1)
    gaps = means[best] - means
    gaps[best], variances[best] = gaps[second], variances[second]
    distances = gaps + rules.epsilon
    with np.errstate(divide="ignore"):
        needed = (
            2 * information * np.maximum(variances - np.minimum(distances, variances) ** 2, 1e-9) / distances**2 / n
        )
    return float(np.where(np.isfinite(needed), needed / (1 + needed), 1.0).mean())


def _drawn(rng: np.random.Generator, n_strategies: int, n_samples: int) -> FloatArray:
    """Right and wrong answers of the named figures: a latent difficulty that all have in common, and their own."""
    accuracies = np.clip(MEAN + SPREAD * rng.normal(size=n_strategies), 0.05, 0.98)
    part = _part_in_common()
    own = rng.normal(size=(n_strategies, n_samples))
    latent = math.sqrt(part) * rng.normal(size=n_samples) + math.sqrt(1 - part) * own
    found: FloatArray = (latent < scipy.special.ndtri(accuracies)[:, None]).astype(float)
    return found


def _part_in_common() -> float:
    """The part of the latent difficulty's variance that strategies have in common.

    Two answers with the same accuracy differ with probability `4 T(threshold, a)`: Owen's T, and part = (1 - a^2) /
    (1 + a^2). (`scipy.stats` and `scipy.optimize` would say the same; their imports take longer than a plan.)
    """
    threshold, low, high = float(scipy.special.ndtri(MEAN)), 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 4 * scipy.special.owens_t(threshold, middle) < 1 - AGREEMENT else (low, middle)
    return (1 - low**2) / (1 + low**2)


def _pilot_values(run_dir: str) -> FloatArray:
    table, name = values_of_runs([run_dir], None, [])
    values = table.values[:, np.isfinite(table.values).all(axis=0)]
    if len(values) < 2 or values.shape[1] < LEAST_PILOT:
        raise ConfigError(
            f"race.pilot '{run_dir}' has {len(values)} strategies with {values.shape[1]:,} samples in common, expected "
            f"2 or more with {LEAST_PILOT} or more; finish it with harness run, or drop race.pilot"
        )
    if values.min() < 0 or values.max() > 1:
        raise ConfigError(f"race.pilot '{run_dir}' is judged by '{name}', which leaves 0 to 1; drop race.pilot")
    return values
