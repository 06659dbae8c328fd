"""Seeds pooled over strategies: how much more is told apart, and how often wrongly."""

import numpy as np
import pytest

from harness.analysis.paired import compare_pairs, holm, pair_test
from harness.analysis.sampling_error import mean_error, pooled_seeds, with_pool
from harness.analysis.strategies import by_axes
from tests.analysis.grids import seeded_strategies, table_of

COUNT = 8
FULL = [pytest.param(n_seeds, 400, marks=pytest.mark.slow) for n_seeds in (2, 3)]


def told_apart(n_seeds, spread, deviations, grids):
    """Pairs that Holm tells apart, mean per grid, and grids with any: pooled, and each pair by itself."""
    rng = np.random.default_rng(6)
    shares = 0.75 + spread * np.linspace(-1, 1, COUNT)
    found = []
    for _ in range(grids):
        values = seeded_strategies(rng, shares, n_seeds, 500, np.asarray(deviations)[:, None])
        pool = pooled_seeds(values)
        pairs = [(a, b) for a in range(COUNT) for b in range(a)]
        p = [[pair_test(values[a] - values[b], None, pool=x).p for a, b in pairs] for x in (pool, None)]
        found.append([(holm(row) <= 0.05).sum() for row in p])
    return np.mean(found, axis=0), np.mean(np.array(found) > 0, axis=0)


@pytest.mark.parametrize(("n_seeds", "grids"), [(2, 60), *FULL])
def test_equal_strategies_are_rarely_told_apart(n_seeds, grids):
    wrong = told_apart(n_seeds, 0.0, [0.03] * COUNT, grids)[1]
    print(f"{n_seeds} seeds, equal strategies: any claim in {wrong[0]:.3f}, by themselves {wrong[1]:.3f}")
    assert max(wrong) <= 0.05


def test_seeds_whose_means_agree_by_chance_are_still_seeds():
    """Two seeds at the very same difference: with 28 pairs on 500 samples that happens in one grid of six."""
    differences = np.zeros((2, 500))
    differences[0, :60] = differences[1, 30:90] = 1.0
    found = pair_test(differences, None)
    assert mean_error(differences).seed_variance == 0.0
    assert pair_test(differences.mean(axis=0)[None], None).p < 1e-9 < 1e-3 < found.p


@pytest.mark.parametrize(("n_seeds", "grids"), [(2, 20), *FULL])
def test_more_is_told_apart(n_seeds, grids):
    pooled, alone = told_apart(n_seeds, 0.1, [0.02] * COUNT, grids)[0]
    print(f"{n_seeds} seeds, accuracies 0.65 to 0.85: {pooled:.1f} of 28 pairs, by themselves {alone:.1f}")
    assert pooled > alone + 3


@pytest.mark.slow
def test_what_the_assumption_costs_where_it_does_not_hold():
    wrong = told_apart(3, 0.0, np.linspace(0.01, 0.06, COUNT), 400)[1]
    print(f"3 seeds, draws move accuracy by 0.01 to 0.06: any claim in {wrong[0]:.3f}, by themselves {wrong[1]:.3f}")
    assert wrong[1] <= 0.05 < wrong[0] < 0.25


def test_the_pool_is_the_mean_over_pairs():
    """The mean over all pairs of their own seed variances, with the degrees of freedom of them all."""
    values = seeded_strategies(np.random.default_rng(0), [0.7, 0.75, 0.8], 4, 50, 0.05)
    errors = [mean_error(values[a] - values[b]) for a in range(3) for b in range(a)]
    pool = pooled_seeds(values)
    assert pool.variance == pytest.approx(np.mean([error.seed_variance for error in errors]))
    assert pool.df == 6
    assert with_pool(errors[0], pool).seed_df == 6
    assert pooled_seeds(values[:1]) is None


def test_k0_has_no_draws_to_pool():
    rng = np.random.default_rng(1)
    keys = [("m", t, k, s) for t in "ab" for k, s in ((0, None), (2, 1), (2, 2))]
    table = table_of((rng.random((6, 80)) < 0.7).astype(float), keys)
    frames = [compare_pairs(by_axes(table, ["template", "k"]), pool_seeds=pool) for pool in (True, False)]
    tests = [dict(zip(zip(f["first"], f["second"], strict=True), f["test"], strict=True)) for f in frames]
    changed = {pair for pair in tests[0] if tests[0][pair] != tests[1][pair]}
    assert changed == {(1, 3)}
    assert tests[0][1, 3] == "t, pooled seeds"
