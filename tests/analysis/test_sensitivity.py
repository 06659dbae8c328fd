"""Figures over templates, by hand."""

import numpy as np
import pytest

from harness.analysis.intervals import mean_interval
from harness.analysis.sensitivity import sensitivity, sensitivity_by_strategy
from tests.analysis.grids import binary_strategies, seeded_strategies, table_of


def test_figures_by_hand():
    """Accuracies 0.9, 0.6 and 0.6: mean 0.7, saturation 1 - 0.2 = 0.8, product 0.72."""
    values = np.zeros((3, 10))
    values[0, :9] = values[1, :6] = values[2, 4:] = 1.0
    found = sensitivity(values)
    assert (found.best, found.worst, found.mean) == pytest.approx((0.9, 0.6, 0.7))
    assert (found.spread, found.saturation, found.combined) == pytest.approx((0.3, 0.8, 0.72))
    assert (found.n_templates, found.n) == (3, 10)
    average = mean_interval(values.mean(axis=0))
    assert (found.mean_low, found.mean_high) == (average.low, average.high)


def test_the_spread_by_chance_is_that_of_equal_templates():
    rng = np.random.default_rng(0)
    found = [sensitivity(binary_strategies(rng, [0.7] * 6, 200), replicates=100, seed=i) for i in range(200)]
    assert np.mean([f.spread_by_chance for f in found]) == pytest.approx(np.mean([f.spread for f in found]), rel=0.05)


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_the_spread_by_chance_allows_for_seeds(n_seeds):
    """Equal templates that draws of demonstrations suit differently; samples alone would explain 0.3 of the spread."""
    rng = np.random.default_rng(23)
    grids = [seeded_strategies(rng, [0.75] * 5, n_seeds, 400, 0.05, shared=0.0) for _ in range(100)]
    found = [sensitivity(values, replicates=60, seed=i) for i, values in enumerate(grids)]
    alone = [sensitivity(values.mean(axis=1), replicates=60, seed=i) for i, values in enumerate(grids)]
    spread, by_chance, of_samples = (
        np.mean(x) for x in ([f.spread for f in found], [f.spread_by_chance for f in found],
                             [f.spread_by_chance for f in alone])
    )  # fmt: skip
    print(f"{n_seeds} seeds: spread {spread:.4f}, by chance {by_chance:.4f}, of samples alone {of_samples:.4f}")
    assert by_chance == pytest.approx(spread, rel=0.1)
    assert of_samples < 0.6 * spread


def test_a_real_spread_is_above_chance():
    found = sensitivity(binary_strategies(np.random.default_rng(1), [0.5, 0.7, 0.9], 300))
    assert found.spread > 3 * found.spread_by_chance


def test_samples_that_some_template_lacks_are_left_out():
    values = np.ones((2, 10))
    values[1, 5:] = 0.0
    values[0, :2] = np.nan
    found = sensitivity(values)
    assert found.n == 8
    assert found.worst == pytest.approx(3 / 8)


def test_seeds_are_averaged_within_templates_and_k0_has_none():
    rng = np.random.default_rng(2)
    keys = [("m", t, k, s) for t in "ab" for k, s in ((0, None), (4, 1), (4, 2))]
    values = binary_strategies(rng, [0.7] * 6, 50)
    frame = sensitivity_by_strategy(table_of(values, keys))
    assert frame["k"].tolist() == [0, 4]
    assert frame["n_seeds"].tolist() == [0, 2]
    four = frame.iloc[1]
    means = [values[1:3].mean(), values[4:6].mean()]
    assert (four["best"], four["worst"]) == pytest.approx((max(means), min(means)))


def test_one_template_has_no_sensitivity():
    assert sensitivity_by_strategy(table_of(np.ones((2, 5)), [("m", "a", 2, 1), ("m", "a", 4, 1)])).empty
