"""Differences of averages where few samples differ, or one side wins rarely but by much.

Both are rows of three values (all +1 and 0; +1, -1/r and 0), so counts say all and nothing is drawn but counts.
"""

from functools import cache

import numpy as np
import pytest
from scipy import stats

from harness.analysis.intervals import half_width, paired_interval, tail_probability
from harness.analysis.paired import pair_test
from harness.analysis.sampling_error import mean_error

N = 1000


@cache
def intervals(count, unit, clustered):
    """The interval and Student's, of so many differences of `unit` among N units; clusters have two samples."""
    differences = np.repeat([unit, 0.0], [count, N - count])
    error = mean_error(differences)
    student = (error.value - half_width(error), error.value + half_width(error))
    if clustered:
        found = paired_interval(np.repeat(differences, 2), np.repeat(np.arange(N), 2))
    else:
        found = paired_interval(differences)
    return (found.low, found.high), student


def coverages(expected, unit, clustered):
    """Of the interval and of Student's."""
    counts = np.arange(int(stats.binom.isf(1e-7, N, expected / N)) + 1)
    chances, truth = stats.binom.pmf(counts, N, expected / N), unit * expected / N
    held = [[low <= truth <= high for low, high in intervals(int(x), unit, clustered)] for x in counts]
    return chances @ np.array(held)


@pytest.mark.parametrize(("unit", "clustered"), [(1.0, True), (0.999, False), (1 / 3, False)])
def test_averages_of_which_few_differ_all_to_one_side(unit, clustered):
    """Exact: no simulation, the sum over all counts."""
    found = np.array([coverages(expected, unit, clustered) for expected in (3, 4, 5, 6, 8, 10)])
    (low, student), (high, most) = found.min(axis=0), found.max(axis=0)
    print(f"differences of {unit:.3f}, clusters {clustered}: {low:.3f} to {high:.3f}, t {student:.3f} to {most:.3f}")
    assert low >= 0.93
    assert student < 0.86


def wrong(n, chance, ratio, drawn):
    """How often p is at most 0.05 by `pair_test` and by Student's t, although the mean difference is nil."""
    rng = np.random.default_rng(1)
    draws = rng.multinomial(n, [chance, ratio * chance, 1 - (1 + ratio) * chance], drawn)
    counts, times = np.unique(draws, axis=0, return_counts=True)
    p = np.array([p_values(tuple(row), ratio) for row in counts])
    return (times[:, None] * (p <= 0.05)).sum(axis=0) / drawn


@cache
def p_values(counts, ratio):
    differences = np.repeat([1.0, -1 / ratio, 0.0], counts)[None]
    error = mean_error(differences)
    return pair_test(differences, None).p, tail_probability(error, error.value)


@pytest.mark.parametrize("n, chance, ratio", [(40, 0.03, 3), (100, 0.01, 3), (100, 0.01, 10)])
def test_rare_large_wins_are_no_evidence(n, chance, ratio):
    now, by_t = wrong(n, chance, ratio, 3000)
    assert now <= 0.055
    assert by_t > 0.11


@pytest.mark.parametrize(("n", "chance", "ratio"), [(20, 0.04, 3), (25, 0.03, 10)])
def test_signs_of_few_samples_are_not_trusted_alone(n, chance, ratio):
    """Sign flips presume symmetry, which rare large wins lack."""
    assert wrong(n, chance, ratio, 200)[0] <= 0.055


GRIDS = [(30, 0.03), (40, 0.03), (40, 0.05), (100, 0.01), (100, 0.03), (300, 0.01), (300, 0.03), (1000, 0.01)]


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [2, 3, 10])
@pytest.mark.parametrize(("n", "chance"), GRIDS)
def test_rare_large_wins_are_no_evidence_in_full(n, chance, ratio):
    now, by_t = wrong(n, chance, ratio, 20_000)
    print(f"n={n}, wins {chance}, {ratio} losses each: p at most 0.05 in {now:.4f}, by t alone {by_t:.4f}")
    assert now <= 0.055
