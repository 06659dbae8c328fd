"""The front of score against cost, against the definition over all pairs."""

import numpy as np
import pytest

from harness.analysis.pareto import pareto_front


def by_definition(costs, scores):
    def beaten(i):
        return any(
            costs[j] <= costs[i] and scores[j] >= scores[i] and (costs[j] < costs[i] or scores[j] > scores[i])
            for j in range(len(costs))
        )

    return np.array([np.isfinite(costs[i]) and np.isfinite(scores[i]) and not beaten(i) for i in range(len(costs))])


@pytest.mark.parametrize("seed", range(200))
def test_it_is_the_definitions(seed):
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 15)
    costs, scores = rng.integers(1, 6, n).astype(float), rng.integers(0, 6, n) / 5
    costs[rng.random(n) < 0.1], scores[rng.random(n) < 0.1] = np.nan, np.nan
    assert pareto_front(costs, scores).tolist() == by_definition(costs, scores).tolist()


def test_equal_ones_are_all_on_it_and_unknown_ones_never():
    found = pareto_front(np.array([1.0, 1.0, 2.0, np.nan]), np.array([0.5, 0.5, 0.5, 0.9]))
    assert found.tolist() == [True, True, False, False]
