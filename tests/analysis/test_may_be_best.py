"""Is the truly best strategy in the group that may be the best, and how large is the group?"""

import numpy as np
import pandas as pd
import pytest
from scipy import special

from harness.analysis.paired import holm, may_be_best
from tests.analysis.grids import binary_strategies, latent_share
from tests.conftest import SHARED

LEVEL = 0.95


def pairs_of(values):
    """What `compare_pairs` says of 0/1 values of independent samples, in a few matrix operations."""
    first, second = np.triu_indices(len(values), 1)
    right = values.sum(axis=1)
    more = np.rint(right[:, None] - values @ values.T)
    up, down = more[first, second], more[second, first]
    p = np.minimum(2 * special.bdtr(np.minimum(up, down), (up + down).astype(int), 0.5), 1.0)
    difference = (up - down) / values.shape[1]
    return pd.DataFrame({"first": first, "second": second, "difference": difference, "p": p})


def not_shown_to_differ(values, pairs):
    """The group by Holm over all pairs, which allows for false claims between any two."""
    best = int(values.mean(axis=1).argmax())
    touching = (pairs["first"] == best) | (pairs["second"] == best)
    return int((holm(pairs["p"]) > 1 - LEVEL)[touching].sum()) + 1


def groups(count, n, spread, agreement, grids):
    """Share of grids whose group has the truly best, and mean sizes of it and of the group by Holm."""
    rng = np.random.default_rng(7)
    part = latent_share(0.75, agreement)
    found = []
    for _ in range(grids):
        shares = np.clip(0.75 + spread * rng.normal(size=count), 0.02, 0.995)
        values = binary_strategies(rng, shares, n, sample_part=part)
        pairs = pairs_of(values)
        inside = may_be_best(pairs, count, LEVEL)
        found.append((inside[shares.argmax()], inside.sum(), not_shown_to_differ(values, pairs)))
    return np.mean(found, axis=0)


def test_the_truly_best_is_in_a_smaller_group():
    held, size, by_holm = groups(30, 1000, 0.03, 0.9, 100)
    assert held >= LEVEL
    assert size < 0.8 * by_holm


@pytest.mark.parametrize("count", [2, 12])
def test_of_equal_strategies_the_first_is_in_the_group(count):
    """The hardest case: any false claim may hit the one that counts as the best."""
    assert groups(count, 300, 0.0, 0.9, 400)[0] >= LEVEL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "n", "spread", "agreement", "most"),
    [
        (4, 500, 0.0, 0.9, 4),
        (20, 500, 0.0, 0.9, 20),
        (100, 2000, 0.08, 0.9, 2.5),
        (100, 2000, 0.03, 0.97, 3.5),
        (100, 2000, 0.03, 0.9, 6),
        (100, 2000, 0.01, 0.9, 40),
    ],
)
def test_the_group_in_full(count, n, spread, agreement, most):
    held, size, by_holm = groups(count, n, spread, agreement, 1000 if count < 100 else 200)
    print(f"{count}, n={n}, sd {spread}, agreement {agreement}: holds {held:.3f}, size {size:.1f}, Holm {by_holm:.1f}")
    assert held >= LEVEL
    assert size <= most


@pytest.mark.slow
def test_the_group_of_real_reviews():
    path = SHARED / "science" / "real.npy"
    if not path.exists():
        pytest.skip("needs the shared matrix of 100 strategies on 2,000 reviews")
    values = np.load(path).astype(float)
    pairs = pairs_of(values)
    size, by_holm = int(may_be_best(pairs, len(values), LEVEL).sum()), not_shown_to_differ(values, pairs)
    print(f"real: {size}, Holm {by_holm}")
    assert size < by_holm
