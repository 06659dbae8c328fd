"""The best strategy's value without the luck it was chosen for, against plain loops."""

import numpy as np
import pytest

from harness.analysis.selection import FOLDS, selection
from tests.analysis.grids import binary_strategies

RNG = np.random.default_rng(8)


def test_what_is_judged_has_not_chosen():
    """Against a loop: all parts but one choose on all seeds but one, the rest judges."""
    values = RNG.random((4, 3, 23))
    found = selection(values, seed=5, repeats=2)
    part = np.argsort(np.random.default_rng(5).random((2, 23)), axis=1) % FOLDS
    judged = 0.0
    for dealt in part:
        for left_out in range(FOLDS):
            mine = dealt == left_out
            for seed in range(3):
                others = [s for s in range(3) if s != seed]
                best = max(range(4), key=lambda row: values[row][others][:, ~mine].sum())
                judged += values[best, seed, mine].sum()
    assert found.expected.value == pytest.approx(judged / (2 * 3 * 23))


def test_a_single_strategy_is_worth_what_is_seen():
    values = RNG.random((1, 50))
    found = selection(values, seed=1)
    assert found.expected.value == pytest.approx(values.mean())
    assert found.expected.low < values.mean() < found.expected.high


def test_a_clear_winner_is_worth_what_is_seen():
    values = np.stack([np.tile([1.0, 1.0, 0.0, 1.0], 50), np.zeros(200)])
    found = selection(values)
    assert (found.best, found.as_seen.value) == (0, 0.75)
    assert found.expected.value == pytest.approx(0.75)


def test_the_best_of_equals_is_worth_less_than_it_seems():
    found = [selection(binary_strategies(RNG, [0.7] * 10, 200), repeats=5, seed=i) for i in range(100)]
    assert np.mean([f.as_seen.value for f in found]) > 0.72
    assert np.mean([f.expected.value for f in found]) == pytest.approx(0.7, abs=0.01)


def test_the_interval_stays_within_the_metrics_range_where_all_is_right():
    values = np.ones((3, 40))
    values[1, 0] = values[2, :2] = 0.0
    found = selection(values)
    assert 0.9 < found.expected.low < found.expected.value
    assert found.expected.value == found.expected.high == found.as_seen.high == 1.0


def test_values_outside_0_to_1_have_a_plain_interval():
    values = 5 + RNG.normal(size=(3, 50))
    found = selection(values)
    assert found.expected.low < found.expected.value < found.expected.high
    assert found.expected.high >= found.as_seen.high > 5


def test_clusters_are_never_split():
    """Two clusters: each half is one of them, so every sample is judged by the other cluster's choice."""
    values = np.array([[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0, 1.0]])
    assert selection(values, np.array([0, 0, 1, 1, 1])).expected.value == 0.0


def test_missing_samples_and_empty_strategies_are_passed_over():
    values = np.stack([np.full(40, np.nan), RNG.random(40), RNG.random(40) + 1])
    values[2, :7] = np.nan
    found = selection(values)
    assert (found.best, found.n_strategies, found.as_seen.n) == (2, 2, 33)
    # Summed in other orders, so equal but for the last bits.
    assert [found.as_seen.value, found.expected.value] == pytest.approx([values[2, 7:].mean()] * 2, rel=1e-12)


def test_strategies_without_a_common_sample_have_no_best():
    values = np.full((2, 4), np.nan)
    values[0, :2] = values[1, 2:] = 1.0
    with pytest.raises(ValueError, match="no sample"):
        selection(values)


def test_the_same_seed_gives_the_same_figures():
    values = RNG.random((5, 60))
    assert selection(values, seed=3) == selection(values, seed=3)
    assert selection(values, seed=3) != selection(values, seed=4)
