"""Simulated races whose truth is known, and how often they claim what is false."""

from __future__ import annotations

import numpy as np

from harness.analysis.race_rules import Ending, Rules
from harness.analysis.racing import replay
from tests.analysis.grids import binary_strategies


def exactly(rng, values, totals):
    """0/1 values changed at random places until each strategy has its total."""
    for row, total in zip(values, totals, strict=True):
        surplus = int(row.sum() - total)
        places = rng.choice(np.flatnonzero(row == (surplus > 0)), abs(surplus), replace=False)
        row[places] = 1 - row[places]
    return values


def tied_but(rng, count, n, lead, part=0.8, level=0.75, clusters=None):
    """(strategies, samples): the first is right `lead` samples more often than all others, which are tied."""
    cluster_part = 0.0 if clusters is None else 0.3
    values = binary_strategies(rng, np.full(count, level), n, clusters, part - cluster_part, cluster_part)
    totals = np.full(count, round(level * n))
    totals[0] += lead
    return exactly(rng, values, totals)


def by_steps(values, clusters):
    """Scores of whole clusters, in the units of `Steps`, and the clusters' sizes."""
    if clusters is None:
        return values, np.ones(values.shape[1], dtype=int)
    sizes = np.bincount(clusters)
    sums = np.stack([np.bincount(clusters, weights=row) for row in values])
    return sums / sizes.mean(), sizes


def shuffled(rng, low, high, sizes):
    order = rng.permutation(len(sizes))
    return low[:, order], high[:, order], sizes[order]


def is_false(race, totals, epsilon_steps):
    """Whether the race dropped the first strategy, the best, or named one that is worse by more than epsilon."""
    worse = totals.max() - totals[race.winner] > epsilon_steps + 1e-9
    return not race.alive[0] or (race.ending is not Ending.EXHAUSTED and worse)


def false_claims(count, n, gap, epsilon, races, part=0.8, cluster_size=None, failing=0.0, seed=1):
    """Share of simulated races that claim what is false.

    Args:
        gap: how far the first is ahead of all others; one sample more where it is epsilon.
        cluster_size: mean size of clusters; None for independent samples.
        failing: share of samples that fail where it hides the best: the first strategy's right answers, and the
            others' wrong ones.
    """
    rng, wrong = np.random.default_rng(seed), 0
    for _ in range(races):
        clusters = None
        if cluster_size:
            drawn = rng.integers(0, n // cluster_size, n)
            clusters = np.unique(drawn, return_inverse=True)[1]
        lead = int(np.floor(gap * n)) + (1 if gap else 0)
        values = tied_but(rng, count, n, lead, part, clusters=clusters)
        low, high = values.copy(), values.copy()
        if failing:
            fails = rng.random(values.shape) < failing
            low[0, fails[0]] = 0.0
            fails[0] = False
            high[fails & (values == 0)] = 1.0
        steps_low, sizes = by_steps(low, clusters)
        steps_high, _ = by_steps(high, clusters)
        steps_low, steps_high, sizes = shuffled(rng, steps_low, steps_high, sizes)
        race = replay(steps_low, sizes, Rules(epsilon), steps_high)
        wrong += is_false(race, values.sum(axis=1), epsilon * n)
    return wrong / races
