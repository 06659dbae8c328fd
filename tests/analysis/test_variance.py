"""Variance components against matrix algebra and known truths."""

import itertools

import numpy as np
import pytest

from harness.analysis.variance import components, decompose, effects_of, shares
from tests.analysis.grids import table_of

NAMES = ["template", "k", "seed", "sample"]


def draw(rng, shape, deviations, names=NAMES):
    """A crossed table from standard deviations per effect; the last effect is the residual."""
    array = np.zeros(shape)
    for effect, deviation in zip(effects_of(names), deviations, strict=True):
        sizes = [size if name in effect else 1 for name, size in zip(names, shape, strict=True)]
        array = array + deviation * rng.normal(size=sizes)
    return array


@pytest.mark.parametrize(("shape", "names"), [((3, 4), NAMES[2:]), ((2, 3, 4), NAMES[1:]), ((2, 3, 2, 4), NAMES)])
def test_components_solve_the_equations_of_the_projections(shape, names):
    """Mean squares from projection matrices; their expectations from traces; a linear system."""
    rng = np.random.default_rng(0)
    array = rng.normal(size=shape)
    effects = effects_of(names)

    def kron(parts):
        out = np.ones((1, 1))
        for part in parts:
            out = np.kron(out, part)
        return out

    def projection(effect):
        return kron(
            np.eye(n) - np.full((n, n), 1 / n) if name in effect else np.full((n, n), 1 / n)
            for name, n in zip(names, shape, strict=True)
        )

    projections = [projection(effect) for effect in effects[:-1]]
    projections.append(np.eye(array.size) - np.full((array.size,) * 2, 1 / array.size) - sum(projections))
    covariances = [
        kron(np.eye(n) if name in effect else np.ones((n, n)) for name, n in zip(names, shape, strict=True))
        for effect in effects
    ]
    flat = array.ravel()
    squares = [flat @ p @ flat for p in projections]
    expected = np.linalg.solve([[np.trace(p @ c) for c in covariances] for p in projections], squares)
    found, dfs = components(array, names)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert dfs.tolist() == [round(np.trace(p)) for p in projections]


def test_components_are_recovered_without_bias():
    rng = np.random.default_rng(1)
    deviations = np.array([0.3, 0.2, 0.1, 1.0, 0.2, 0.1, 0.5, 0.1, 0.4, 0.3, 0.8])
    found = np.array([components(draw(rng, (5, 4, 4, 60), deviations), NAMES)[0] for _ in range(1500)])
    errors = found.std(axis=0) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - deviations**2) < 4 * errors).all()


def test_shares_of_a_large_table_are_the_true_ones():
    rng = np.random.default_rng(2)
    deviations = np.array([1.0, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0])
    found = np.mean([shares(components(draw(rng, (20, 20, 20, 50), deviations), NAMES)[0]) for _ in range(40)], axis=0)
    np.testing.assert_allclose(found, deviations**2 / (deviations**2).sum(), atol=0.03)


def cell_keys(n_templates, ks, seeds):
    return [("m", f"t{t}", k, s) for t, k, s in itertools.product(range(n_templates), ks, seeds)]


def test_a_table_of_cells_gives_the_components_of_its_array():
    array = draw(np.random.default_rng(3), (3, 2, 2, 40), np.ones(11))
    found = decompose(table_of(array.reshape(12, 40), cell_keys(3, (2, 4), (1, 2))), "m")
    np.testing.assert_allclose(found.components["component"], components(array, NAMES)[0])
    assert found.levels == {"template": 3, "k": 2, "seed": 2}
    assert found.components["effect"].tolist()[-1] == "residual"
    assert found.components["share"].sum() == pytest.approx(1)


def test_jackknife_errors_are_the_spread_over_new_samples():
    """Templates, K and seeds stay; samples are new each time."""
    rng = np.random.default_rng(4)
    fixed = draw(rng, (3, 2, 3, 1), [0.5, 0.3, 0.2, 0, 0.2, 0.2, 0, 0.2, 0, 0, 0])
    new = [0, 0, 0, 1.0, 0, 0, 0.5, 0, 0.3, 0.2, 0.7]
    keys = cell_keys(3, (2, 4), (1, 2, 3))
    runs = [
        decompose(table_of((fixed + draw(rng, (3, 2, 3, 100), new)).reshape(18, 100), keys), "m").components
        for _ in range(80)
    ]
    spread = np.std([run["component"] for run in runs], axis=0)
    said = np.sqrt(np.mean([run["component_se"] ** 2 for run in runs], axis=0))
    np.testing.assert_allclose(said, spread, rtol=0.2)
    spread = np.std([run["share"] for run in runs], axis=0)
    said = np.sqrt(np.mean([run["share_se"] ** 2 for run in runs], axis=0))
    sample = effects_of(NAMES).index(("sample",))
    assert said[sample] == pytest.approx(spread[sample], rel=0.2)


def test_clusters_are_left_out_whole():
    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(20), 10)
    array = rng.normal(size=(4, 200)) + 2 * rng.normal(size=20)[clusters]
    keys = cell_keys(4, (2,), (1,))
    one = decompose(table_of(array, keys), "m").components
    other = decompose(table_of(array, keys, clusters), "m").components
    np.testing.assert_allclose(one["component"], other["component"])
    assert other["component_se"][1] > 2 * one["component_se"][1]


def test_incomplete_samples_are_left_out_and_counted():
    array = np.random.default_rng(6).normal(size=(4, 50))
    array[0, :5] = array[3, 3:8] = np.nan
    found = decompose(table_of(array, cell_keys(2, (2,), (1, 2))), "m")
    assert (found.n_samples, found.n_dropped) == (42, 8)


def test_k0_is_left_out_as_soon_as_other_k_exist():
    rng = np.random.default_rng(7)
    keys = cell_keys(2, (2,), (1, 2))
    values = rng.normal(size=(4, 30))
    zero = [("m", f"t{t}", 0, None) for t in range(2)]
    found = decompose(table_of(np.concatenate([rng.normal(size=(2, 30)), values]), zero + keys), "m")
    alone = decompose(table_of(values, keys), "m")
    np.testing.assert_allclose(found.components["component"], alone.components["component"])
    assert any("K=0" in note for note in found.notes)
    only_zero = decompose(table_of(values[:2], zero), "m")
    assert only_zero.components["effect"].tolist() == ["template", "sample", "residual"]


def test_a_seed_that_some_template_lacks_is_left_out():
    keys = [key for key in cell_keys(2, (2,), (1, 2, 3)) if key != ("m", "t1", 2, 3)]
    found = decompose(table_of(np.random.default_rng(8).normal(size=(5, 30)), keys), "m")
    assert found.levels == {"template": 2, "k": 1, "seed": 2}
    assert found.notes == ("1 cells are left out: not every template and K has their seed",)


@pytest.mark.parametrize(
    ("keys", "n"),
    [(cell_keys(1, (2,), (1,)), 30), (cell_keys(2, (2,), (1,)), 1), ([("m", "a", 2, 1), ("m", "b", 4, 1)], 9)],
)
def test_where_nothing_can_be_taken_apart_there_is_no_decomposition(keys, n):
    assert decompose(table_of(np.random.default_rng(0).random((len(keys), n)), keys), "m") is None


def test_constant_values_have_no_shares():
    found = decompose(table_of(np.ones((4, 30)), cell_keys(2, (2,), (1, 2))), "m")
    assert found.components["component"].tolist() == [0.0] * 7
    assert found.components["share"].isna().all()
