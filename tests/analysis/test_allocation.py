"""Is what is named as the limit of a difference the limit, and is what is bought the better buy?"""

import numpy as np
import pytest

from harness.analysis.allocation import allocation, allocations
from harness.analysis.intervals import half_width
from harness.analysis.sampling_error import mean_error
from harness.analysis.variance import decompose
from tests.analysis.grids import seeded_strategies, table_of


def values_of(rng, n_strategies, n_seeds, n, seed=0.0, sample=0.0, noise=0.3, common=1.0):
    """Normal values; standard deviations of strategy x seed, strategy x sample, both, and what all have in common."""
    return (
        common * rng.normal(size=n)
        + common * rng.normal(size=(n_seeds, 1))
        + seed * rng.normal(size=(n_strategies, n_seeds, 1))
        + sample * rng.normal(size=(n_strategies, 1, n))
        + noise * rng.normal(size=(n_strategies, n_seeds, n))
    )


def test_the_parts_are_means_over_all_pairs():
    values = values_of(np.random.default_rng(0), 5, 4, 60, 0.1, 0.4)
    errors = [mean_error(values[a] - values[b]) for a in range(5) for b in range(a)]
    found = allocation(values)
    v1, v2, v3 = (
        np.mean([getattr(e, name) for e in errors]) for name in ("sample_variance", "seed_variance", "noise_variance")
    )
    assert (found.samples, found.seeds, found.both) == pytest.approx((v1 - v3, v2 - v3, v3))


def test_the_parts_are_those_of_the_grid():
    """What all strategies have in common is no part of a difference, however large."""
    rng = np.random.default_rng(1)
    found = [allocation(values_of(rng, 10, 5, 100, 0.1, 0.5, 0.3, common=3.0)) for _ in range(60)]
    assert np.mean([f.samples for f in found]) == pytest.approx(2 * 0.25 / 100, rel=0.1)
    assert np.mean([f.seeds for f in found]) == pytest.approx(2 * 0.01 / 5, rel=0.1)
    assert np.mean([f.both for f in found]) == pytest.approx(2 * 0.09 / 500, rel=0.1)


def realised(rng, n_seeds, n, seed_sd):
    """Mean interval of a difference of two of eight strategies."""
    values = seeded_strategies(rng, [0.75] * 8, n_seeds, n, seed_sd)
    return np.mean([half_width(mean_error(values[i] - values[i + 1])) for i in range(0, 8, 2)])


@pytest.mark.parametrize(("n_seeds", "n", "seed_sd", "buy"), [(3, 500, 0.05, "seeds"), (8, 250, 0.0, "samples")])
def test_what_is_bought_shortens_the_interval_more(n_seeds, n, seed_sd, buy):
    """Shares of the variance of single results say samples in both."""
    rng = np.random.default_rng(2)
    told, shares = [], []
    for _ in range(20):
        values = seeded_strategies(rng, [0.75] * 8, n_seeds, n, seed_sd)
        told.append(allocation(values).buy)
        keys = [("m", f"t{t}", 4, s) for t in range(8) for s in range(n_seeds)]
        parts = decompose(table_of(values.reshape(len(keys), -1), keys), "m").components.set_index("effect")["share"]
        shares.append(parts.idxmax())
    assert set(shares) == {"sample"}
    assert np.mean([text == buy for text in told]) >= 0.8
    better, worse = ((2 * n_seeds, n), (n_seeds, 2 * n)) if buy == "seeds" else ((n_seeds, 2 * n), (2 * n_seeds, n))
    widths = [np.mean([realised(rng, s, m, seed_sd) for _ in range(6)]) for s, m in (better, worse)]
    assert widths[0] < widths[1]


def test_one_seed_tells_nothing_of_seeds():
    found = allocation(values_of(np.random.default_rng(3), 4, 1, 50, 0.5, 0.2))
    assert np.isnan(found.seeds)
    assert found.buy == ""
    assert found.with_samples < found.half_width


def test_rows_per_model_without_k0():
    rng = np.random.default_rng(4)
    keys = [("m", t, k, s) for t in "ab" for k, s in ((0, None), (4, 1), (4, 2))] + [("other", "a", 4, 1)]
    frame = allocations(table_of(rng.random((7, 40)), keys))
    assert frame["model"].tolist() == ["m"]
    assert frame["n_seeds"].tolist() == [2]
    assert allocations(table_of(rng.random((1, 40)), keys[:1])).empty
