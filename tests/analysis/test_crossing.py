"""How many labelled examples it takes: the point, the interval, and how often it holds the truth."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from harness.analysis.crossing import crossing_point, crossing_text, crossings
from harness.analysis.selection import judged_values, luck_variance, selection
from tests.analysis.grids import table_of

SIZES = (50, 200, 1000, 5000)


def simulated(rng, shares, prompts, n=500, seeds=3, seed_sd=0.02):
    """(sizes, seeds, n) and (prompts, n) 0/1 values that share what is easy; seeds move the curve, not the prompts."""
    easy = np.sqrt(0.5) * rng.normal(size=n)
    moved = seed_sd * (
        np.sqrt(0.5) * rng.normal(size=(1, seeds)) + np.sqrt(0.5) * rng.normal(size=(len(shares), seeds))
    )
    levels = norm.ppf(np.clip(np.array(shares)[:, None] + moved, 0.01, 0.99))
    own = np.sqrt(0.25) * rng.normal(size=(len(shares), 1, n)) + np.sqrt(0.25) * rng.normal(
        size=(len(shares), seeds, n)
    )
    curve = (easy + own < levels[..., None]).astype(float)
    asked = (easy + np.sqrt(0.5) * rng.normal(size=(len(prompts), n)) < norm.ppf(prompts)[:, None]).astype(float)
    return curve, asked


def truth(shares, prompt):
    """Where the expected curve, straight on log n, reaches the best prompt."""
    return float(np.exp(np.interp(prompt, shares, np.log(SIZES))))


def covers(runs, shares, prompts, seeds, base):
    true = truth(shares, max(prompts))
    inside = 0
    for run in range(runs):
        curve, asked = simulated(np.random.default_rng([base, run]), shares, prompts, seeds=seeds)
        _, low, high = crossing_point(curve, asked, SIZES)
        inside += low <= true <= high
    return inside / runs


def test_the_point_is_interpolated_on_log_n():
    # Accuracies 0, 0.5, 1 at n = 10, 100, 1000 against a prompt that is right three times in four.
    values = np.array([[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=float)[:, None]
    value, low, high = crossing_point(values, np.array([[1.0, 1, 1, 0]]), (10, 100, 1000))
    assert value == pytest.approx(math.sqrt(100 * 1000))
    assert low <= value <= high


def test_ends_are_open_where_the_sizes_do_not_reach():
    rng = np.random.default_rng(0)
    behind, prompts = simulated(rng, (0.5, 0.52, 0.54, 0.56), (0.9, 0.7))
    assert crossing_point(behind, prompts, SIZES) == (math.inf, 5000, math.inf)
    ahead, prompts = simulated(rng, (0.85, 0.87, 0.9, 0.92), (0.6, 0.55))
    assert crossing_point(ahead, prompts, SIZES) == (0, 0, 50)
    level, prompts = simulated(np.random.default_rng(1), (0.7, 0.7, 0.7, 0.7), (0.7, 0.7))
    _, low, high = crossing_point(level, prompts, SIZES)
    assert (low, high) == (0, math.inf)


def test_at_the_interval_s_high_end_the_classifier_is_just_shown_to_be_better():
    curve, prompts = simulated(np.random.default_rng(2), (0.6, 0.7, 0.8, 0.88), (0.76, 0.6), n=2000)
    value, low, high = crossing_point(curve, prompts, SIZES)
    assert 50 < low < value < high < 5000
    _, wider_low, wider_high = crossing_point(curve, prompts, SIZES, level=0.99)
    assert wider_low < low and wider_high > high


def test_the_best_prompt_is_judged_by_samples_that_did_not_choose_it():
    values = (np.random.default_rng(1).random((40, 300)) < 0.5).astype(float)
    judged = judged_values(values)
    assert judged.mean() == pytest.approx(selection(values).expected.value)
    assert judged.mean() < values.mean(axis=1).max() - 0.03, "the luck of the best of 40 equal ones is taken off"
    clusters = np.repeat(np.arange(60), 5)
    assert judged_values(values, clusters).mean() == pytest.approx(selection(values, clusters).expected.value)


def test_curves_are_found_among_the_cells_and_put_in_words():
    curve, prompts = simulated(np.random.default_rng(5), (0.55, 0.7, 0.8, 0.9), (0.75, 0.7), n=800)
    keys = [("m", "a", 0, None), ("m", "b", 0, None), ("encoder", None, None, None)]
    keys += [("tfidf", None, n, seed) for n in SIZES for seed in (1, 2, 3)]
    table = table_of([*prompts, prompts[0], *curve.reshape(-1, 800)], keys)
    (found,) = crossings(table)
    assert (found.model, found.sizes, found.n_prompts, found.n_seeds) == ("tfidf", SIZES, 2, 3)
    assert found.prompt.value == pytest.approx(selection(prompts).expected.value)
    assert 200 < found.low < found.value < found.high < 5000
    assert f"tfidf is level with the best prompt at n = {found.value:,.0f} labelled examples (95%: from " in (
        crossing_text(found)
    )
    assert crossing_text(found).endswith(f"3 draws of examples), shown to be better from n = {found.high:,.0f} on")


@pytest.mark.parametrize(
    ("trained", "sizes", "seeds", "left_out"),
    [
        ({50: (1, 2, 3), 200: (1, 2, 3), 1000: (1,)}, (50, 200, 1000), 1, 4),
        ({50: (1, 2), 200: (1, 2, 3), 1000: (2, 3)}, (50, 200, 1000), 1, 4),
        ({50: (1, 2), 200: (1, 2), 1000: (3,)}, (50, 200), 2, 1),
        ({50: (1, 2), 200: (1, 2), 1000: (1, 2)}, (50, 200, 1000), 2, 0),
    ],
)
def test_a_size_with_fewer_seeds_does_not_end_the_curve(trained, sizes, seeds, left_out):
    keys = [("m", "a", 0, None), ("m", "b", 0, None)]
    keys += [("tfidf", None, n, seed) for n, own in trained.items() for seed in own]
    (found,) = crossings(table_of(np.random.default_rng(0).integers(0, 2, (len(keys), 60)), keys))
    assert (found.sizes, found.n_seeds, found.n_left_out) == (sizes, seeds, left_out)
    assert ("trainings left out" in crossing_text(found)) == bool(left_out)


def test_where_prompts_tie_the_luck_of_the_choice_is_as_uncertain_as_it_is_said_to_be():
    lucks, said = [], []
    for run in range(150):
        _, prompts = simulated(np.random.default_rng([3, run]), (0.6,), (0.75,) * 6, n=300)
        lucks.append(prompts.mean(axis=1).max() - judged_values(prompts).mean())
        said.append(luck_variance(prompts) if run < 20 else np.nan)
    assert 0.7 < np.nanmean(said) / np.var(lucks) < 2
    _, prompts = simulated(np.random.default_rng(1), (0.6,), (0.9, 0.5, 0.4), n=300)
    assert luck_variance(prompts) == 0 == luck_variance(prompts[:1])
    clusters = np.repeat(np.arange(100), 3)
    ties = np.repeat((np.random.default_rng(2).random((4, 100)) < 0.7).astype(float), 3, axis=1)
    assert luck_variance(ties, clusters) > luck_variance(ties) > 0


def test_the_interval_is_wider_where_the_choice_is_uncertain(monkeypatch):
    curve, prompts = simulated(np.random.default_rng(2), (0.6, 0.7, 0.8, 0.88), (0.75,) * 6, seeds=1)
    _, low, high = crossing_point(curve, prompts, SIZES)
    monkeypatch.setattr("harness.analysis.crossing.luck_variance", lambda *given: 0.0)
    _, shorter_low, shorter_high = crossing_point(curve, prompts, SIZES)
    assert low < shorter_low < shorter_high < high


@pytest.mark.parametrize(("prompts", "seeds"), [((0.75, 0.6), 3), ((0.75,) * 6, 3)], ids=["one best", "six alike"])
def test_the_interval_covers_in_a_few_simulated_curves(prompts, seeds):
    assert covers(25, (0.6, 0.7, 0.8, 0.88), prompts, seeds, base=7) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(
    "prompts", [(0.75, 0.6), (0.75, 0.75), (0.75,) * 6], ids=["one best", "two alike", "six alike"]
)
def test_the_interval_covers_at_93_to_97_percent(prompts, seeds):
    assert 0.93 <= covers(1000, (0.6, 0.7, 0.8, 0.88), prompts, seeds, base=11) <= 0.97
