"""The capital of a bet that is lost on average never grows on average: exactly, over all orders of small grids."""

import itertools
import math

import numpy as np
import pytest

from harness.analysis.certificates import REST_STAKES
from harness.analysis.martingales import Steps, log_mean
from harness.analysis.racing import DROP_STAKES

STAKES = np.unique(np.concatenate([DROP_STAKES, REST_STAKES, [1.0]]))


def capitals(steps, differences, margin):
    """(steps + 1, stakes) capital before and after each step of one order."""
    rows = [np.ones(len(STAKES))]
    for end in range(1, len(differences) + 1):
        logs = steps.log_capital(np.array([differences[:end]]), np.zeros(1), 0, margin, STAKES)
        rows.append(np.exp(logs[0]))
    return np.array(rows)


@pytest.mark.parametrize(("n", "margin"), [(4, 0.0), (4, 0.3), (5, 0.2)])
def test_over_all_orders_of_all_small_grids_capital_is_no_more_than_one(n, margin):
    """Every multiset of differences whose sum is at the border of what is bet against, and every start of an order:
    the mean over the steps that may come next is at most the capital before."""
    tried = 0
    grid = (-1.0, -0.5, 0.0, 0.5, 1.0) if n < 5 else (-1.0, 0.0, 1.0)
    for values in itertools.combinations_with_replacement(grid, n):
        if sum(values) > -n * margin + 1e-12:
            continue
        tried += 1
        steps, starts = Steps(np.ones(n, dtype=int)), {}
        for order in set(itertools.permutations(values)):
            found = capitals(steps, order, margin)
            assert np.isfinite(found).all(), f"{order} was said to be impossible"
            for t in range(n):
                starts.setdefault(order[:t], []).append((found[t], found[t + 1]))
        for pairs in starts.values():
            before, after = (np.mean([pair[place] for pair in pairs], axis=0) for place in (0, 1))
            assert (after <= before * (1 + 1e-9)).all()
    assert tried > 5


@pytest.mark.parametrize("sizes", [(1, 1, 4), (1, 2, 3, 2), (5, 1, 1, 1, 1)])
def test_clusters_of_any_size_are_fair_steps(sizes):
    """Differences are drawn with their clusters: a step's bound is that of the largest cluster left."""
    rng, n = np.random.default_rng(3), len(sizes)
    for _ in range(20):
        sums = rng.integers(-np.array(sizes), np.array(sizes) + 1)
        sums[rng.integers(n)] -= max(0, sums.sum())
        if (np.abs(sums) > sizes).any():
            continue
        final = []
        for order in itertools.permutations(range(n)):
            steps = Steps(np.array(sizes)[list(order)])
            final.append(capitals(steps, sums[list(order)] / np.mean(sizes), 0.0))
        assert np.isfinite(final).all()
        assert (np.mean(final, axis=0) <= 1 + 1e-9).all()


def test_what_cannot_come_about_any_more_is_certain():
    steps = Steps(np.ones(10, dtype=int))
    logs = steps.log_capital(np.ones((1, 6)), np.zeros(1), 0, 0.0, STAKES)
    assert np.isinf(logs).all(), "6 of 10 won: what is left cannot make up for it"
    logs = steps.log_capital(np.ones((1, 5)), np.zeros(1), 0, 0.0, STAKES)
    assert np.isfinite(logs).all(), "5 of 10 won: a tie may come"
    lost = steps.log_capital(-np.ones((1, 10)), np.zeros(1), 0, 0.0, STAKES)
    assert np.isfinite(lost).all() and (lost < 0).all()


def test_capital_grows_with_the_margin():
    """So that certificates of all margins are true together."""
    rng = np.random.default_rng(5)
    steps = Steps(rng.integers(1, 4, 60))
    differences = rng.choice([-1, 0, 1], (50, 60), p=[0.3, 0.3, 0.4]) * steps.weights
    found = [
        log_mean(steps.log_capital(differences[:, :40], np.zeros(50), 0, margin, REST_STAKES))
        for margin in np.linspace(0, 0.3, 13)
    ]
    assert all((one <= other + 1e-9).all() for one, other in itertools.pairwise(found))


def test_pieces_of_a_span_give_the_capital_of_the_whole():
    rng = np.random.default_rng(6)
    steps, differences = Steps(np.ones(50, dtype=int)), rng.choice([-1.0, 0, 1], (3, 30))
    whole = steps.log_capital(differences, np.zeros(3), 0, 0.02, REST_STAKES)
    first = steps.log_capital(differences[:, :12], np.zeros(3), 0, 0.02, REST_STAKES)
    rest = steps.log_capital(differences[:, 12:], differences[:, :12].sum(axis=1), 12, 0.02, REST_STAKES)
    np.testing.assert_allclose(first + rest, whole)
    assert math.isclose(log_mean(np.zeros((1, 6)))[0], 0, abs_tol=1e-12)
