"""The best strategy's value without the luck it was chosen for, against plain loops."""

import numpy as np
import pytest

from harness.analysis.resampling import bootstrap_weights
from harness.analysis.selection import selection
from tests.analysis.grids import binary_strategies

RNG = np.random.default_rng(8)


def test_split_halves_are_their_loop():
    values = RNG.random((4, 20))
    found = selection(values, splits=30, replicates=1, seed=5)
    halves = np.argsort(np.random.default_rng(5).random((30, 20)), axis=1) < 10
    judged = [[] for _ in range(20)]
    for half in halves:
        for chooser in (half, ~half):
            best = max(range(4), key=lambda row: values[row][chooser].mean())
            for sample in np.flatnonzero(~chooser):
                judged[sample].append(values[best, sample])
    assert found.expected.value == pytest.approx(np.mean([np.mean(row) for row in judged]))


def test_the_bootstraps_optimism_is_its_loop():
    values = RNG.random((3, 15))
    found = selection(values, splits=1, replicates=50, seed=2)
    optimism = []
    for weights in np.concatenate(list(bootstrap_weights(15, 50, seed=2))):
        means = [np.average(row, weights=weights) for row in values]
        best = int(np.argmax(means))
        optimism.append(means[best] - values[best].mean())
    assert found.bootstrap_expected == pytest.approx(values.mean(axis=1).max() - np.mean(optimism))


def test_a_single_strategy_is_worth_what_is_seen():
    values = RNG.random((1, 50))
    found = selection(values, seed=1)
    assert found.expected.value == pytest.approx(values.mean())
    assert found.expected.low < values.mean() < found.expected.high


def test_a_clear_winner_is_worth_what_is_seen():
    values = np.stack([np.tile([1.0, 1.0, 0.0, 1.0], 50), np.zeros(200)])
    found = selection(values)
    assert (found.best, found.as_seen) == (0, 0.75)
    assert found.expected.value == pytest.approx(0.75)


def test_the_best_of_equals_is_worth_less_than_it_seems():
    found = [selection(binary_strategies(RNG, [0.7] * 10, 200), splits=50, replicates=100, seed=i) for i in range(100)]
    assert np.mean([f.as_seen for f in found]) > 0.72
    assert np.mean([f.expected.value for f in found]) == pytest.approx(0.7, abs=0.01)
    assert 0.7 < np.mean([f.bootstrap_expected for f in found]) < np.mean([f.as_seen for f in found])


def test_clusters_are_never_split():
    """Two clusters: each half is one of them, so every sample is judged by the other cluster's choice."""
    values = np.array([[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0, 1.0]])
    assert selection(values, np.array([0, 0, 1, 1, 1]), splits=20).expected.value == 0.0


def test_missing_samples_and_empty_strategies_are_passed_over():
    values = np.stack([np.full(40, np.nan), RNG.random(40), RNG.random(40) + 1])
    values[2, :7] = np.nan
    found = selection(values)
    assert found.best == 2
    assert found.as_seen == pytest.approx(values[2, 7:].mean())
    assert found.expected.value == pytest.approx(values[2, 7:].mean(), abs=0.02)


def test_the_same_seed_gives_the_same_figures():
    values = RNG.random((5, 60))
    assert selection(values, seed=3) == selection(values, seed=3)
    assert selection(values, seed=3) != selection(values, seed=4)
