"""Do 95% intervals hold the truth 95 times in 100, over simulated grids?

Streams are fixed, so the tests are deterministic; with 2,000 grids the standard error of a coverage is 0.5 points.
"""

import itertools
from functools import cache

import numpy as np
import pytest
from scipy import stats

from harness.analysis.discordance import score_interval
from harness.analysis.intervals import interval_probability, mean_interval, paired_interval, seeds_interval
from harness.analysis.sampling_error import mean_error
from tests.analysis.grids import binary_strategies, crossed

GRIDS = 2000


def coverage(draw, truth, grids=GRIDS):
    """Share of grids whose interval (an Estimate from `draw(rng)`) holds the truth."""
    rng = np.random.default_rng(2024)
    found = [draw(rng) for _ in range(grids)]
    return np.mean([e.low <= truth <= e.high for e in found])


def uneven_clusters(rng, n_clusters, mean_size):
    """Sizes are geometric: many clusters of one or two samples, some of five times the mean."""
    return np.repeat(np.arange(n_clusters), rng.geometric(1 / mean_size, n_clusters))


@pytest.mark.parametrize(("n", "share"), [(100, 0.8), (400, 0.6), (1000, 0.95)])
def test_wilson_over_samples(n, share):
    assert 0.93 <= coverage(lambda rng: mean_interval((rng.random(n) < share).astype(float)), share) <= 0.97


@pytest.mark.parametrize(
    ("n_clusters", "share", "part"), [(40, 0.7, 0.3), (40, 0.7, 0.7), (100, 0.9, 0.3), (200, 0.5, 0.1)]
)
def test_means_over_uneven_clusters(n_clusters, share, part):
    def draw(rng):
        clusters = uneven_clusters(rng, n_clusters, 8)
        latent = np.sqrt(part) * rng.normal(size=n_clusters)[clusters]
        latent += np.sqrt(1 - part) * rng.normal(size=len(clusters))
        return mean_interval((latent < stats.norm.ppf(share)).astype(float), clusters)

    assert 0.93 <= coverage(draw, share) <= 0.97


def test_ignoring_clusters_would_cover_far_less():
    def draw(rng):
        clusters = np.repeat(np.arange(100), 8)
        latent = np.sqrt(0.5) * (rng.normal(size=100)[clusters] + rng.normal(size=800))
        return mean_interval((latent < 0).astype(float))

    assert coverage(draw, 0.5, 500) < 0.8


@pytest.mark.parametrize(("n", "shares"), [(100, (0.7, 0.8)), (300, (0.8, 0.8)), (2000, (0.9, 0.92))])
def test_paired_differences_of_right_and_wrong(n, shares):
    def draw(rng):
        values = binary_strategies(rng, shares, n)
        return paired_interval(values[0] - values[1])

    assert 0.93 <= coverage(draw, shares[0] - shares[1]) <= 0.97


@cache
def held_by(more, fewer, n):
    return score_interval(more, fewer, n, 0.95)


def exact_coverage(n, discordant, part):
    """Of the interval of a paired difference: no simulation, the sum over all counts of discordant pairs.

    Expected are `discordant` pairs in n, a share `part` of them in favour of the first."""
    up, down = discordant * part / n, discordant * (1 - part) / n
    most = [int(stats.binom.isf(1e-7, n, p)) + 1 for p in (up, down)]
    total = 0.0
    for more, fewer in itertools.product(range(most[0] + 1), range(most[1] + 1)):
        low, high = held_by(more, fewer, n) if more + fewer <= n else (1, 0)
        if low - 1e-9 <= up - down <= high + 1e-9:
            total += stats.binom.pmf(more, n, up) * stats.binom.pmf(fewer, n - more, down / (1 - up))
    return total


PARTS = (0.5, 0.7, 0.85, 1.0)


@pytest.mark.parametrize("n", [60, 1000])
@pytest.mark.parametrize("discordant", [8, 12, 25])
def test_paired_differences_with_eight_discordant_pairs_or_more(n, discordant):
    for part in PARTS:
        assert 0.93 <= exact_coverage(n, discordant, part) <= 0.97, part


@pytest.mark.parametrize("discordant", [0.5, 1, 2, 3, 4, 5, 6])
def test_paired_differences_keep_their_level_where_few_pairs_differ(discordant):
    """Above the level where counts are so few that no interval could be nearer to it; see below."""
    assert min(exact_coverage(1000, discordant, part) for part in PARTS) >= 0.928


def test_with_one_discordant_pair_expected_no_interval_covers_93_to_97_percent():
    """Counts of both kinds are then Poisson with mean 1/2 if strategies are equal. An interval that treats
    both alike excludes 0 at (k, 0) from some k on. With k = 2 it covers too little. With k >= 3, were it
    to exclude 0 at all (k, j) and (j, k), j < k, too, it would cover too much."""
    one = stats.poisson(0.5)
    assert 1 - 2 * one.pmf(0) * one.sf(1) < 0.93
    assert 1 - 2 * one.sf(2) > 0.97


@pytest.mark.parametrize(("n_clusters", "shares"), [(40, (0.7, 0.8)), (150, (0.85, 0.85))])
def test_paired_differences_over_uneven_clusters(n_clusters, shares):
    def draw(rng):
        clusters = uneven_clusters(rng, n_clusters, 6)
        values = binary_strategies(rng, shares, len(clusters), clusters, 0.2, 0.3)
        return paired_interval(values[0] - values[1], clusters)

    assert 0.93 <= coverage(draw, shares[0] - shares[1]) <= 0.97


def seed_coverage(n_seeds, seed, n=60, sample=1.0, grids=1000):
    """Of the interval around a mean of zero; standard deviations are in those of the noise. The truth is
    inside where its probability is 0.05 or more, which is quicker than the interval itself."""
    rng = np.random.default_rng(99)
    errors = [mean_error(crossed(rng, n_seeds, n, sample=sample, seed=seed)) for _ in range(grids)]
    return np.mean([interval_probability(error, error.value) >= 0.05 for error in errors])


@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize("seed", [0.0, 0.3, 1.0])
def test_means_over_samples_and_seeds(n_seeds, seed):
    assert 0.93 <= seed_coverage(n_seeds, seed) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds", [3, 4, 5, 10])
@pytest.mark.parametrize("seed", [0.0, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("n", [60, 1000])
def test_means_over_samples_and_seeds_however_much_seeds_matter(n_seeds, seed, n):
    assert 0.93 <= seed_coverage(n_seeds, seed, n, grids=2000) <= 0.97


@pytest.mark.parametrize("seed", [0.0, 0.1, 0.3, 1.0])
def test_two_seeds_never_cover_too_little(seed):
    """Above the level by up to 5 points where seeds hardly matter: two seeds cannot show that."""
    assert seed_coverage(2, seed, grids=500) >= 0.93


@pytest.mark.parametrize("seed", [0.0, 1.0])
def test_seeds_cover_more_where_samples_differ_by_noise_alone(seed):
    """V1 is V3 then, and the interval never shorter than V1 allows."""
    assert seed_coverage(3, seed, sample=0.0, grids=500) >= 0.94


def test_seeds_and_clusters_together():
    rng = np.random.default_rng(3)
    clusters, held = np.repeat(np.arange(30), 4), 0
    for _ in range(1000):
        values = crossed(rng, 5, 120, sample=0.5, seed=0.2) + rng.normal(size=30)[clusters]
        values += 0.5 * rng.normal(size=(5, 30))[:, clusters]
        error = mean_error(values, clusters)
        held += interval_probability(error, error.value) >= 0.05
    assert 0.93 <= held / 1000 <= 0.97


def test_t_over_seeds():
    assert 0.93 <= coverage(lambda rng: seeds_interval(rng.normal(0.7, 0.02, 4)), 0.7) <= 0.97
