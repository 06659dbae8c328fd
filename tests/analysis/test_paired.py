"""Pairs of strategies against scipy, statsmodels and brute force."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from harness.analysis.intervals import paired_interval
from harness.analysis.paired import (
    best_of,
    best_shares,
    compare_pairs,
    holm,
    may_be_best,
    pair_test,
    samples_to_settle,
)
from harness.analysis.resampling import bootstrap_weights, sign_flip_probability
from harness.analysis.sampling_error import mean_error
from harness.analysis.strategies import by_axes, every_cell
from tests.analysis.grids import binary_strategies, crossed, table_of

RNG = np.random.default_rng(11)
CLUSTERS = np.repeat(np.arange(40), 5)


def cells(values, clusters=None):
    keys = [("m", f"t{i}", 2, 1) for i in range(len(values))]
    return every_cell(table_of(values, keys, clusters))


@pytest.mark.parametrize(("more", "fewer", "n"), [(12, 4, 50), (0, 0, 10), (5, 5, 10), (300, 250, 4000)])
def test_independent_right_or_wrong_is_mcnemars_exact_test(more, fewer, n):
    differences = np.repeat([1.0, -1.0, 0.0], [more, fewer, n - more - fewer])
    found = pair_test(differences[None], None)
    table = [[0, more], [fewer, n - more - fewer]]
    assert found.p == pytest.approx(float(mcnemar(table, exact=True).pvalue))
    assert (found.more, found.fewer, found.test) == (more, fewer, "McNemar exact")


def test_values_between_right_and_wrong_are_students_paired_test():
    first, second = RNG.random((2, 50))
    found = pair_test((first - second)[None], None)
    added = np.append(first - second, [1.0, -1.0])
    assert found.p == pytest.approx(stats.ttest_1samp(added, 0.0).pvalue)
    assert found.more is None


def test_right_or_wrong_in_clusters_is_not_mcnemars_test():
    values = binary_strategies(RNG, [0.7, 0.6], 200, CLUSTERS, 0.3, 0.3)
    differences = values[0] - values[1]
    found = pair_test(differences[None], CLUSTERS)
    fit = sm.OLS(differences, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": CLUSTERS}, use_t=True)
    assert found.test == "cluster-robust t"
    assert found.p == pytest.approx(float(fit.pvalues[0]))


def test_few_units_are_tested_by_all_sign_patterns():
    differences = np.array([0.3, -0.1, 0.4, 0.2, 0.0, 0.5])
    found = pair_test(differences[None], np.arange(6))
    expected = stats.permutation_test(
        (differences,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    assert found.test == "sign flips"
    assert found.p == pytest.approx(expected.pvalue)


def test_signs_of_whole_clusters_are_flipped():
    differences, clusters = RNG.normal(size=12), np.repeat(np.arange(4), 3)
    sums = [differences[clusters == g].sum() for g in range(4)]
    patterns = [abs(np.dot(signs, sums)) for signs in itertools.product((1, -1), repeat=4)]
    expected = np.mean(np.array(patterns) >= abs(sum(sums)) - 1e-12)
    assert pair_test(differences[None], clusters).p == pytest.approx(expected)


def test_random_sign_flips_come_near_all_patterns_and_repeat_with_their_seed():
    sums = RNG.normal(size=14) + 0.4
    exact = sign_flip_probability(sums, 2**13, 0)
    drawn = sign_flip_probability(sums, 2**13 - 1, 0)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 2**13))
    assert drawn == sign_flip_probability(sums, 2**13 - 1, 0)
    assert drawn != sign_flip_probability(sums, 2**13 - 1, 1)


def test_several_seeds_are_never_taken_for_more_samples():
    """A strong seed effect that repeats over 400 samples is no evidence with three seeds."""
    differences = crossed(np.random.default_rng(3), 3, 400, sample=0.1, seed=0.2, noise=0.1, mean=0.1)
    pooled = stats.ttest_1samp(differences.mean(axis=0), 0).pvalue
    found = pair_test(differences, None)
    assert pooled < 1e-6
    assert found.p > 0.05
    assert found.test == "t, random seeds"


def test_holm_is_that_of_statsmodels():
    for power in (1, 4):
        p = RNG.random(30) ** power
        np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])


def test_a_pair_without_a_p_value_does_not_count_in_holm():
    np.testing.assert_allclose(holm([0.01, math.nan, 0.03]), [0.02, math.nan, 0.03])


def test_all_pairs_hold_what_each_pair_gives_alone():
    values = binary_strategies(RNG, [0.6, 0.7, 0.8], 300)
    frame = compare_pairs(cells(values))
    assert list(zip(frame["first"], frame["second"], strict=True)) == [(0, 1), (0, 2), (1, 2)]
    for row in frame.to_dict("records"):
        differences = values[row["first"]] - values[row["second"]]
        alone = paired_interval(differences)
        assert (row["difference"], row["low"], row["high"]) == (alone.value, alone.low, alone.high)
        assert row["difference"] == pytest.approx((row["more"] - row["fewer"]) / 300)
        assert row["p"] == pair_test(differences[None], None).p
    np.testing.assert_allclose(frame["p_holm"], holm(frame["p"]))
    assert frame["differs"].tolist() == (frame["p_holm"] <= 0.05).tolist()


def test_pairs_against_a_baseline_are_a_smaller_family():
    values = binary_strategies(RNG, [0.6, 0.65, 0.7, 0.7], 300)
    pairs = [(1, 0), (2, 0), (3, 0)]
    frame = compare_pairs(cells(values), pairs)
    np.testing.assert_allclose(frame["p_holm"], holm(frame["p"]))
    everything = compare_pairs(cells(values))
    same = everything[everything["first"] == 0]
    np.testing.assert_allclose(frame["p"], same["p"])
    assert (frame["p_holm"].to_numpy() <= same["p_holm"].to_numpy()).all()


def test_a_pair_uses_the_samples_that_both_have_scored():
    values = binary_strategies(RNG, [0.6, 0.7, 0.8], 50)
    values[0, :10] = np.nan
    values[1, 5:20] = np.nan
    frame = compare_pairs(cells(values))
    assert frame["n"].tolist() == [30, 40, 35]
    assert frame.loc[0, "difference"] == pytest.approx((values[0, 20:] - values[1, 20:]).mean())


def test_a_strategy_without_scores_settles_nothing_and_breaks_nothing():
    values = binary_strategies(RNG, [0.6, 0.9, 0.8], 200)
    values[0] = np.nan
    frame = compare_pairs(cells(values))
    assert frame["n"].tolist() == [0, 0, 200]
    assert np.isnan(frame["p_holm"]).tolist() == [True, True, False]
    assert frame["differs"].tolist()[:2] == [False, False]
    assert best_shares(values, None, 200)[0] == 0.0


def test_ties_share_the_place_of_the_best():
    values = np.zeros((3, 100))
    values[0, :80] = values[1, 20:] = 1.0
    values[2, :20] = 1.0
    frame = compare_pairs(cells(values))
    assert best_of(values.mean(axis=1)) == 0
    assert may_be_best(frame, 3).tolist() == [True, True, False]
    assert best_shares(np.stack([values[0], values[0], values[2]]), None, 100).tolist() == [0.5, 0.5, 0.0]


def test_the_best_is_alone_when_all_others_are_shown_to_be_worse():
    values = binary_strategies(np.random.default_rng(0), [0.5, 0.9, 0.5], 400)
    assert best_of(values.mean(axis=1)) == 1
    assert may_be_best(compare_pairs(cells(values)), 3).tolist() == [False, True, False]


def test_k0_against_itself_under_seeds_is_one_mcnemar_test():
    keys = [("m", t, k, s) for t in "ab" for k, s in ((0, None), (2, 1), (2, 2))]
    values = binary_strategies(RNG, [0.7] * 6, 80)
    frame = compare_pairs(by_axes(table_of(values, keys), ["template", "k"]))
    tests = dict(zip(zip(frame["first"], frame["second"], strict=True), frame["test"], strict=True))
    assert tests[0, 2] == "McNemar exact"
    assert tests[0, 1] == "t, random seeds"


@pytest.mark.parametrize(("discordance", "difference"), [(0.2, 0.1), (0.1, 0.04)])
def test_connors_number_of_samples_has_the_power_it_promises(discordance, difference):
    """The exact test is a little weaker than the formula's: 0.74 to 0.82 for 0.80."""
    up, down = (discordance + difference) / 2, (discordance - difference) / 2
    error = mean_error(np.repeat([1.0, -1.0, 0.0], np.rint(np.array([up, down, 1 - up - down]) * 100).astype(int)))
    n = 100 + samples_to_settle(error, 0.05, discordance)
    counts = np.random.default_rng(0).multinomial(n, [up, down, 1 - up - down], 4000)
    p = np.minimum(2 * stats.binom.cdf(counts[:, :2].min(axis=1), counts[:, :2].sum(axis=1), 0.5), 1)
    assert 0.74 < (p <= 0.05).mean() < 0.82


def test_the_number_of_samples_by_hand():
    """delta 0.1, standard deviation 1: (1.960 + 0.842)^2 / 0.01 = 785 samples."""
    differences = np.tile([1.1, -0.9], 50) * np.sqrt(99 / 100) + 0.1 * (1 - np.sqrt(99 / 100))
    error = mean_error(differences)
    assert error.value == pytest.approx(0.1)
    assert samples_to_settle(error, 0.05) == 785 - 100


def test_no_number_of_samples_settles_a_nil_difference_or_what_the_seeds_decide():
    assert samples_to_settle(mean_error(np.tile([1.0, -1.0], 50)), 0.05) is None
    rounding = mean_error(np.tile([0.1 + 1e-15, -0.1], 50))
    assert 0 < rounding.value < 1e-14
    assert samples_to_settle(rounding, 0.05) is None
    assert samples_to_settle(mean_error(np.tile([0.1 + 1e-9, -0.1], 50)), 0.05) is None
    seeds = crossed(np.random.default_rng(4), 3, 500, sample=0.1, seed=1.0, noise=0.1, mean=0.2)
    assert samples_to_settle(mean_error(seeds), 0.05) is None


def test_the_shares_of_the_best_are_their_loop():
    values = RNG.random((3, 12))
    values[0, 2] = np.nan
    known = np.isfinite(values)
    tops = Counter()
    for row in np.concatenate(list(bootstrap_weights(12, 300, seed=7))):
        tops[int(np.argmax([np.average(values[i][known[i]], weights=row[known[i]]) for i in range(3)]))] += 1
    assert best_shares(values, None, 300, seed=7).tolist() == pytest.approx([tops[i] / 300 for i in range(3)])


def test_the_shares_of_the_best_draw_whole_clusters():
    """Two clusters that contradict each other: a strategy leads where its cluster is drawn twice, else they tie."""
    values = np.stack([np.repeat([1.0, -1.0], 50), np.repeat([-1.0, 1.0], 50)])
    shares = best_shares(values, np.repeat([0, 1], 50), 1000, seed=0)
    assert shares.tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    assert (1000 * shares * 2 % 1 == 0).all()


def test_bootstrap_weights_draw_as_many_as_there_are_and_do_not_depend_on_chunks(monkeypatch):
    whole = np.concatenate(list(bootstrap_weights(10, 25, seed=3)))
    monkeypatch.setattr("harness.analysis.resampling.WEIGHTS_PER_CHUNK", 40)
    parts = list(bootstrap_weights(10, 25, seed=3))
    assert len(parts) == 7
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (whole.sum(axis=1) == 10).all()
