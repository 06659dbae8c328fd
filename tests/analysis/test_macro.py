"""Macro averages over tasks: the arithmetic, and how often the intervals hold the truth."""

from dataclasses import replace

import numpy as np
import pytest

from harness.analysis.intervals import half_width
from harness.analysis.macro import against, macro_averages
from harness.analysis.sampling_error import mean_error
from harness.analysis.stratified import combined, combined_difference, error_of, interval, interval_over_tasks
from harness.analysis.task_values import BEST, MEAN, STRATEGY, TaskValues, paired
from harness.core.errors import ConfigError


def task(label, metric="accuracy", clusters=None, **strategies):
    """Names are templates of K = 0; values are rows of samples."""
    values = {("m", name, 0): {None: np.asarray(row, dtype=float)} for name, row in strategies.items()}
    return TaskValues(label, metric, values, clusters)


TWO = (task("x", a=[1, 1, 0, 0], b=[1, 0, 0, 0]), task("y", a=[1] * 10, b=[1] * 9 + [0]))


def row(macro, label):
    return macro.rows[macro.rows["label"] == label].iloc[0]


def test_an_average_is_the_mean_of_the_tasks_means_whatever_their_sizes():
    found = macro_averages(TWO)
    assert row(found, "a")["mean"] == pytest.approx((0.5 + 1.0) / 2)
    assert row(found, "b")["mean"] == pytest.approx((0.25 + 0.9) / 2)
    assert row(found, MEAN)["mean"] == pytest.approx(np.mean([0.375, 0.95]))
    assert found.rows["label"].tolist() == ["a", "b", BEST, MEAN]
    own = found.by_task[(found.by_task["label"] == "b") & (found.by_task["task"] == "y")].iloc[0]
    assert (own["mean"], own["n"]) == (0.9, 10)


def test_variances_of_tasks_add_up_by_weight():
    rng = np.random.default_rng(0)
    errors = [mean_error(rng.random((seeds, n))) for seeds, n in ((1, 20), (3, 50), (1, 200))]
    found = combined(errors)
    assert found.value == pytest.approx(np.mean([one.value for one in errors]))
    assert found.sample_variance == pytest.approx(sum(one.sample_variance for one in errors) / 9)
    assert found.seed_variance == pytest.approx(errors[1].seed_variance / 9)
    assert found.seed_df == 2
    assert min(one.df for one in errors) <= found.df <= sum(one.df for one in errors)


def test_pairs_are_paired_within_tasks_and_count_tasks_ahead():
    pair = macro_averages(TWO).pairs.iloc[0]
    assert (pair["first"], pair["second"], pair["ahead"], pair["behind"]) == ("a", "b", 2, 0)
    assert pair["difference"] == pytest.approx((0.25 + 0.1) / 2)
    assert pair["low"] < pair["difference"] < pair["high"]
    assert not pair["differs"]


def test_two_strategies_that_agree_on_all_samples_are_not_known_to_be_equal():
    pair = macro_averages([task(name, a=[1, 0] * 20, b=[1, 0] * 20) for name in "xy"]).pairs.iloc[0]
    assert pair["low"] < 0 < pair["high"]
    assert pair["p"] == 1.0
    assert 0.01 < pair["high"] < 0.1


def test_a_baseline_comes_second_and_holm_runs_over_its_pairs_alone():
    values = {name: np.arange(40) < cut for name, cut in (("a", 30), ("b", 20), ("c", 10))}
    found = macro_averages([task("x", **values), task("y", **values)])
    assert len(found.pairs) == 3
    own = against(found, "a").pairs
    assert own["second"].tolist() == ["a", "a"]
    assert own["difference"].tolist() == [-0.25, -0.5]
    assert own["high"].max() < 0
    assert (own["low"] < own["high"]).all()
    assert own[["ahead", "behind"]].to_numpy().tolist() == [[0, 2], [0, 2]]
    assert (own["p_holm"] <= found.pairs["p_holm"].head(2)).all()
    with pytest.raises(ConfigError, match="no strategy is 'd'"):
        against(found, "d")


def test_strategies_that_not_all_tasks_have_have_no_average_but_count_per_model():
    found = macro_averages([task("x", a=[1, 0], b=[1, 1]), task("y", b=[1, 0], c=[1, 0])])
    assert found.rows["kind"].tolist() == [STRATEGY, BEST, MEAN]
    assert row(found, MEAN)["mean"] == pytest.approx((0.75 + 0.5) / 2)
    assert "1 of up to 2 strategies are in all tasks" in found.notes[0]


def test_what_a_reader_must_know_is_noted():
    apart = macro_averages([task("x", a=[1, 0, 1]), task("y", "f1", b=[0.5, 0.2, 1])])
    assert apart.notes[0] == "the average is over different metrics: accuracy, f1"
    assert "no template and K has the same names" in apart.notes[1]
    assert "no interval over tasks" in macro_averages([task("x", a=[1, 0, 1])]).notes[-1]


@pytest.mark.parametrize("metric", ["f1", "mine"])
def test_percent_beside_shares_is_said(metric):
    share = task("a", "f1", x=[1, 0, 0.5, 1], y=[1, 0, 0, 1])
    percent = task("b", metric, x=[100, 0, 50, np.nan], y=[0, 0, 50, 100])
    notes = macro_averages([share, percent]).notes
    assert any(note.startswith("scores of b go beyond 1, those of the other tasks do not") for note in notes)
    for alone in ([share], [percent], [percent, replace(percent, label="c")]):
        assert not any("go beyond 1" in note for note in macro_averages(alone).notes)


def test_dependent_samples_of_a_task_widen_the_interval():
    rows = {"a": np.repeat([1, 0, 1, 1, 0], 20)}
    clusters = np.repeat(range(5), 20)
    alone, together = (macro_averages([task(n, "f1", c, **rows) for n in "xy"]).rows.iloc[0] for c in (None, clusters))
    assert together["high"] - together["low"] > 2 * (alone["high"] - alone["low"])


def samples(rng, share, seeds, moves):
    """Values of one strategy under some seeds, each of which moves its share."""
    names = range(seeds) if seeds > 1 else [None]
    return {seed: (rng.random(len(share)) < share + rng.normal(0, moves)).astype(float) for seed in names}


@pytest.mark.parametrize(("n_tasks", "n", "seeds", "moves"), [(4, 50, 1, 0.0), (11, 40, 1, 0.0), (4, 80, 3, 0.05)])
def test_intervals_on_these_tasks_hold_the_truth(n_tasks, n, seeds, moves):
    rng, runs = np.random.default_rng(5), 300 if seeds == 1 else 100
    covered = differences = 0
    for _ in range(runs):
        shares = [0.2 + 0.6 * rng.beta(2, 1, n) for _ in range(n_tasks)]
        first, second = ([samples(rng, share, seeds, moves) for share in shares] for _ in range(2))
        low, high = interval(combined([error_of(one, None) for one in first]), 0.95)
        covered += low <= 0.6 <= high
        apart = [error_of(paired(one, other), None) for one, other in zip(first, second, strict=True)]
        found = combined_difference(apart)
        differences += abs(found.value) <= half_width(found)
    # Three standard errors of 300 draws are 0.038, of 100 0.065; seeds make intervals conservative.
    assert covered / runs >= 0.91
    assert differences / runs >= 0.91


def test_intervals_over_tasks_hold_the_mean_of_tasks_at_large():
    rng, runs = np.random.default_rng(6), 1000
    covered = 0
    for _ in range(runs):
        means = rng.binomial(50, 0.3 + 0.5 * rng.beta(3, 2, 8)) / 50
        low, high = interval_over_tasks(means, 0.95)
        covered += low <= 0.6 <= high
    assert 0.93 <= covered / runs <= 0.97
