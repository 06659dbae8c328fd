"""Variances and intervals against closed forms, statsmodels and brute force."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize, special, stats

from harness.analysis.cells import wilson_interval
from harness.analysis.discordance import score_interval
from harness.analysis.intervals import (
    half_width,
    mean_interval,
    paired_interval,
    seeds_interval,
    tail_probability,
    wilson_form,
)
from harness.analysis.sampling_error import MeanError, mean_error
from tests.analysis.grids import crossed

RNG = np.random.default_rng(5)
VALUES = RNG.random(60)
EVEN = np.repeat(np.arange(12), 5)
UNEVEN = np.repeat(np.arange(8), [1, 2, 3, 4, 8, 10, 12, 20])


def test_independent_samples_are_students_t():
    found = mean_error(VALUES)
    assert found.sample_variance == pytest.approx(VALUES.var(ddof=1) / 60)
    assert found.df == pytest.approx(59)
    expected = stats.t.interval(0.95, 59, VALUES.mean(), stats.sem(VALUES))
    assert half_width(found) == pytest.approx((expected[1] - expected[0]) / 2)


def test_clusters_of_one_size_are_statsmodels_cluster_robust_error():
    found = mean_error(VALUES, EVEN)
    fit = sm.OLS(VALUES, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": EVEN}, use_t=True)
    assert found.sample_variance == pytest.approx(float(fit.bse[0]) ** 2)
    assert found.df == pytest.approx(11)
    low, high = fit.conf_int()[0]
    assert half_width(found) == pytest.approx((high - low) / 2)


def test_clusters_are_millers_sum_over_pairs_of_one_cluster():
    """SE^2 = sum over i, j of one cluster of (x_i - m)(x_j - m) / n^2, times G / (G - 1)."""
    rest = VALUES - VALUES.mean()
    total = sum(rest[i] * rest[j] for i in range(60) for j in range(60) if EVEN[i] == EVEN[j])
    assert mean_error(VALUES, EVEN).sample_variance == pytest.approx(total / 60**2 * 12 / 11)


def test_clusters_of_any_size_are_the_matrix_form_of_bell_and_mccaffrey():
    hat = np.full((60, 60), 1 / 60)
    middle, terms = np.eye(60) - hat, []
    for g in range(8):
        rows = np.flatnonzero(g == UNEVEN)
        block = np.eye(len(rows)) - hat[np.ix_(rows, rows)]
        roots, vectors = np.linalg.eigh(block)
        root = vectors @ np.diag(roots**-0.5) @ vectors.T
        terms.append((np.full(len(rows), 1 / 60) @ root) @ middle[rows])
    terms = np.array(terms)
    found = mean_error(VALUES, UNEVEN)
    assert found.sample_variance == pytest.approx(float(((terms @ VALUES) ** 2).sum()))
    spread = terms @ terms.T
    assert found.df == pytest.approx(np.trace(spread) ** 2 / (spread**2).sum())


def test_cluster_codes_need_not_be_consecutive():
    assert mean_error(VALUES, EVEN * 7 + 3) == mean_error(VALUES, EVEN)


def test_seeds_give_the_mean_squares_of_the_crossed_analysis_of_variance():
    table = crossed(RNG, 4, 30, seed=0.3)
    grand, by_sample, by_seed = table.mean(), table.mean(axis=0), table.mean(axis=1)
    ms_sample = 4 * ((by_sample - grand) ** 2).sum() / 29
    ms_seed = 30 * ((by_seed - grand) ** 2).sum() / 3
    ms_rest = ((table - by_sample - by_seed[:, None] + grand) ** 2).sum() / (29 * 3)
    found = mean_error(table)
    assert found.sample_variance == pytest.approx(ms_sample / 120)
    assert found.seed_variance == pytest.approx(ms_seed / 120)
    assert found.noise_variance == pytest.approx(ms_rest / 120)
    assert found.total == pytest.approx(ms_sample / 120 + max(ms_seed - ms_rest, 0) / 120)


def test_the_generalised_p_value_is_its_monte_carlo():
    found = mean_error(crossed(np.random.default_rng(0), 3, 200, sample=0.5, seed=0.2))
    draws = np.random.default_rng(1).chisquare(2, 400_000) / 2
    spread = np.sqrt(found.sample_variance + np.maximum(found.seed_variance / draws - found.noise_variance, 0))
    for distance in (0.05, 0.2, 0.8):
        expected = (2 * stats.t.sf(distance / spread, found.df)).mean()
        assert tail_probability(found, distance) == pytest.approx(expected, rel=0.01)


def test_interval_and_p_value_belong_together():
    found = mean_error(crossed(np.random.default_rng(2), 2, 100, seed=0.3), np.repeat(np.arange(25), 4))
    assert tail_probability(found, half_width(found)) == pytest.approx(0.05, abs=1e-6)
    assert tail_probability(found, half_width(found, 0.8)) == pytest.approx(0.2, abs=1e-6)


def test_the_interval_over_three_seeds_is_that_of_its_posterior():
    """Posterior of the variance W of the seeds' means from its density on a grid."""
    v1, v2, v3 = 1.0, 0.8, 0.3
    w = np.geomspace(1e-4, 1e6, 400_001)
    density = w**-1 * (1 + ((v1 - v3) / (2 * w)) ** 2) * w**-1 * np.exp(-v2 / w) * w
    spread = np.sqrt(v1 + np.maximum(w - v3, 0))
    half = half_width(MeanError(0.0, v1, 1e9, v2, v3, 3))
    assert np.average(2 * stats.norm.sf(half / spread), weights=density) == pytest.approx(0.05, abs=2e-4)


def test_no_interval_is_longer_than_that_of_the_test_and_two_seeds_have_the_same():
    for n_seeds in (2, 3, 4, 10):
        for seed in (0.01, 0.1, 1.0):
            found = mean_error(crossed(np.random.default_rng(2), n_seeds, 100, seed=seed))
            p = tail_probability(found, half_width(found))
            assert p == pytest.approx(0.05, abs=1e-6) if n_seeds == 2 else 0.05 <= p <= 0.15


def test_seeds_without_samples_to_speak_of_are_t_over_seeds():
    """When seeds are all that varies, the interval is Student's with S - 1 degrees of freedom."""
    means = np.array([0.1, 0.4, 0.2, 0.5])
    found = mean_error(np.repeat(means[:, None], 5000, axis=1) + 1e-9 * RNG.normal(size=(4, 5000)))
    assert half_width(found) == pytest.approx(stats.t.ppf(0.975, 3) * stats.sem(means), rel=0.001)
    alone = seeds_interval(means)
    assert (alone.low, alone.high) == pytest.approx(stats.t.interval(0.95, 3, means.mean(), stats.sem(means)))


def test_one_seed_has_no_interval_over_seeds():
    alone = seeds_interval(np.array([0.5, np.nan]))
    assert alone.value == 0.5
    assert math.isnan(alone.low)


def test_wilsons_form_is_wilson_for_its_own_width():
    half = 1.959963984540054 * math.sqrt(0.3 * 0.7 / 50)
    assert wilson_form(0.3, half) == pytest.approx(wilson_interval(15, 50))


def test_independent_shares_have_wilsons_interval():
    found = mean_interval(np.repeat([1.0, 0.0, np.nan], [7, 3, 2]))
    assert (found.low, found.high) == pytest.approx(wilson_interval(7, 10))
    assert (found.n, found.n_units, found.method) == (10, 10, "Wilson")


def test_seeds_that_make_no_difference_are_one_observation():
    row = np.repeat([1.0, 0.0], [7, 3])
    assert mean_interval(np.stack([row] * 5)) == mean_interval(row)
    assert paired_interval(np.stack([row] * 5)) == paired_interval(row)


def test_equal_values_in_clusters_still_have_an_interval():
    found = mean_interval(np.ones(60), EVEN)
    assert (found.low, found.high) == pytest.approx(wilson_interval(12, 12))
    between = mean_interval(np.full(60, 0.5), EVEN)
    assert (between.low, between.high) == pytest.approx(wilson_interval(6, 12))


def test_values_outside_of_shares_have_a_plain_interval():
    values = VALUES * 30 - 3
    found = mean_interval(values)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 59, values.mean(), stats.sem(values)))


@pytest.mark.parametrize(("more", "fewer", "n"), [(12, 2, 50), (3, 0, 40), (7, 9, 1000), (40, 55, 100)])
def test_the_paired_interval_holds_what_the_score_test_does_not_reject(more, fewer, n):
    """Score statistic with the chances that a numerical search finds most likely."""

    def statistic(d):
        def unlikely(q):
            return -(
                special.xlogy(more, q + d) + special.xlogy(fewer, q) + special.xlogy(n - more - fewer, 1 - 2 * q - d)
            )

        within = (max(0, -d), (1 - d) / 2)
        q = optimize.minimize_scalar(unlikely, bounds=within, options={"xatol": 1e-10}).x
        return (more - fewer - n * d) / math.sqrt(n * (2 * q + d - d**2))

    low, high = score_interval(more, fewer, n, 0.95)
    assert statistic(low) == pytest.approx(1.959963984540054, abs=2e-3)
    assert statistic(high) == pytest.approx(-1.959963984540054, abs=2e-3)


def test_the_paired_interval_is_the_same_from_the_other_side_and_stays_within_one():
    low, high = score_interval(3, 8, 30, 0.9)
    assert score_interval(8, 3, 30, 0.9) == pytest.approx((-high, -low))
    assert score_interval(30, 0, 30, 0.95)[1] == 1.0
    assert math.isnan(score_interval(0, 0, 0, 0.95)[0])


def test_strategies_that_agree_everywhere_are_not_known_to_be_equal():
    """By hand: n d = z sqrt(n d (1 - d)) gives d = z^2 / (n + z^2)."""
    squared = 1.959963984540054**2
    found = paired_interval(np.zeros(98))
    assert found.high == -found.low == pytest.approx(squared / (98 + squared))
    clustered = paired_interval(np.zeros(60), EVEN)
    assert clustered.high == pytest.approx(squared / (12 + squared))


def test_differences_that_are_no_shares_have_students_t():
    differences = RNG.normal(size=40)
    found = paired_interval(differences)
    largest = np.abs(differences).max()
    assert largest > 1
    added = np.append(differences, [largest, -largest])
    expected = stats.t.interval(0.95, 41, added.mean(), stats.sem(added))
    assert (found.low, found.high) == pytest.approx(expected)


@pytest.mark.parametrize("clusters", [None, np.arange(12) // 3])
def test_intervals_of_graded_metrics_stay_within_their_range(clusters):
    best, worst = np.append(np.ones(11), 0.9), np.append(np.zeros(11), 0.05)
    for values, limits in ((best, (0, 1)), (worst, (0, 1)), (best[None] * np.ones((3, 1)), (0, 1))):
        found = mean_interval(values, clusters)
        assert limits[0] <= found.low < found.value < found.high <= limits[1]
    for differences in (best - worst, worst - best, np.full(12, 0.97), np.full(12, -0.97)):
        found = paired_interval(differences, clusters)
        assert -1 <= found.low < found.value < found.high <= 1


@pytest.mark.parametrize("values", [np.array([]), np.array([np.nan])])
def test_nothing_scored_has_no_figure(values):
    found = mean_interval(values)
    assert found.n == 0
    assert math.isnan(found.value)
    assert math.isnan(found.low)


def test_one_cluster_has_no_interval():
    found = mean_interval(VALUES, np.zeros(60, dtype=int))
    assert found.value == pytest.approx(VALUES.mean())
    assert math.isnan(found.low)
    assert math.isnan(tail_probability(mean_error(VALUES, np.zeros(60, dtype=int)), 1.0))
