"""Averaging is balanced and keeps seeds apart."""

import numpy as np
import pytest

from harness.analysis.strategies import by_axes, every_cell, labels_of
from harness.core.errors import ConfigError
from tests.analysis.grids import table_of

GRID = [("m", t, k, s) for t in ("a", "b") for k in (2, 4) for s in (1, 2)]


def random_table(keys, n=5, seed=0):
    return table_of(np.random.default_rng(seed).random((len(keys), n)), keys)


def test_cells_are_strategies_by_default():
    strategies = every_cell(random_table(GRID))
    assert strategies.values.shape == (8, 1, 5)
    assert strategies.labels[:2] == ("a K=2 seed=1", "a K=2 seed=2")


def test_other_axes_are_averaged_per_sample_and_seeds_stay_apart():
    table = random_table(GRID)
    strategies = by_axes(table, ["template"])
    assert strategies.labels == ("a", "b")
    assert strategies.seeds == (1, 2)
    assert strategies.averaged == ("k",)
    np.testing.assert_allclose(strategies.values[0, 1], (table.values[1] + table.values[3]) / 2)
    np.testing.assert_allclose(strategies.per_sample[1], table.values[4:].mean(axis=0))
    assert strategies.with_fixed_seeds().values.shape == (2, 1, 5)


def test_k0_counts_once_under_every_seed():
    keys = [("m", t, 0, None) for t in ("a", "b")] + [k for k in GRID if k[2] == 4]
    table = random_table(keys)
    strategies = by_axes(table, ["template"])
    assert strategies.values.shape == (2, 2, 5)
    for seed in range(2):
        np.testing.assert_allclose(strategies.values[0, seed], (table.values[0] + table.values[2 + seed]) / 2)
    by_k = by_axes(table, ["k"])
    np.testing.assert_array_equal(by_k.values[0, 0], by_k.values[0, 1])


def test_only_k0_has_one_observation_and_no_seeds():
    strategies = by_axes(random_table([("m", t, 0, None) for t in ("a", "b")]), ["template"])
    assert strategies.values.shape == (2, 1, 5)
    assert strategies.seeds == ()


def test_seeds_are_compared_without_k0():
    keys = [("m", "a", 0, None), ("m", "a", 4, 1), ("m", "a", 4, 2)]
    table = random_table(keys)
    strategies = by_axes(table, ["seed"])
    assert strategies.labels == ("seed=1", "seed=2")
    np.testing.assert_allclose(strategies.values[:, 0], table.values[1:])
    assert any("K=0" in note for note in strategies.notes)


def test_what_some_strategy_lacks_is_left_out_and_named():
    keys = [key for key in GRID if key != ("m", "b", 4, 2)]
    table = random_table(keys)
    strategies = by_axes(table, ["template"])
    assert strategies.seeds == (1,)
    np.testing.assert_allclose(strategies.values[0, 0], (table.values[0] + table.values[2]) / 2)
    assert strategies.notes == ("3 of 7 cells are left out: not every strategy has their like",)


def test_a_sample_that_failed_in_one_averaged_cell_has_no_value():
    table = random_table(GRID)
    table.values[2, 3] = np.nan
    strategies = by_axes(table, ["template"])
    assert np.isnan(strategies.values[0, 0]).tolist() == [False, False, False, True, False]
    assert np.isnan(strategies.per_sample).sum() == 1


@pytest.mark.parametrize(
    ("keys", "axes", "message"),
    [
        (GRID, ["tamplate"], "did you mean 'template'"),
        (GRID, ["run"], "no axis 'run'"),
        (GRID[:4], ["template"], "1 level of template"),
        ([("m", "a", 2, 1), ("m", "b", 4, 1)], ["template"], "no combination of model, k, seed"),
        ([("m", "a", 0, None)], ["seed"], "0 level of seed"),
    ],
)
def test_comparisons_that_cannot_be_made_are_refused(keys, axes, message):
    with pytest.raises(ConfigError, match=message):
        by_axes(random_table(keys), axes)


def test_labels_name_what_differs_and_are_unique():
    cells = random_table([("x/m", "a", 2, 1), ("y/m", "a", 2, 1)]).cells
    assert labels_of(cells) == ("x/m", "y/m")
    assert labels_of(random_table([("x/m", "a", 0, None), ("x/n", "a", 2, 1)]).cells) == ("m K=0", "n K=2 seed=1")
