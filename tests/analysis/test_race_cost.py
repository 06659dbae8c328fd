"""What a plan says that a race costs, against races."""

import numpy as np
import pytest
import scipy

from harness.analysis import race_cost as costs
from harness.analysis.race_cost import lower_bound, race_cost
from harness.analysis.race_rules import Rules
from harness.core.errors import ConfigError, RunDirError
from harness.planning.report import make_report
from harness.running.race import race


def test_the_named_figures_cost_what_such_grids_cost():
    """100 strategies on 2,000 samples: the racing study found 21% with a bound of 6%."""
    found = race_cost(100, 2000, Rules(0.01), None)
    assert 0.15 < found.expected < 0.33
    assert 0.04 < found.bound < 0.5 * found.expected
    assert "spread by 0.03" in found.basis and "90%" in found.basis


@pytest.mark.parametrize(("mean", "agreement"), [(0.75, 0.9), (0.6, 0.7), (0.9, 0.99)])
def test_named_strategies_agree_as_often_as_they_are_said_to(monkeypatch, mean, agreement):
    monkeypatch.setattr(costs, "MEAN", mean)
    monkeypatch.setattr(costs, "AGREEMENT", agreement)
    part, threshold = costs._part_in_common(), scipy.special.ndtri(mean)
    both = scipy.stats.multivariate_normal(cov=[[1, part], [part, 1]]).cdf([threshold, threshold])
    assert 1 - 2 * (mean - both) == pytest.approx(agreement, abs=1e-6)


def test_more_samples_cost_a_smaller_share_and_a_smaller_epsilon_a_larger_one(monkeypatch):
    monkeypatch.setattr(costs, "RACES", 3)
    few, many, coarse = race_cost(20, 600, Rules(), None), race_cost(20, 6000, Rules(), None), Rules(0.1)
    assert many.expected < 0.7 * few.expected and many.bound < few.bound
    assert race_cost(20, 600, coarse, None).expected < few.expected


def test_grids_too_large_to_simulate_take_as_many_records_of_more(monkeypatch):
    monkeypatch.setattr(costs, "MOST_VALUES", 20_000)
    found = race_cost(10, 100_000, Rules(0.05), None)
    assert 0 < found.expected <= 2000 / 100_000


def test_the_bound_of_two_strategies_is_the_textbook_one():
    """Normal differences of variance psi and mean d: 2 kl(0.05, 0.95) psi / d^2 samples."""
    values = np.zeros((2, 100_000))
    values[0, :60_000], values[1, 20_000:70_000] = 1, 1
    psi, gap = 0.3, 0.1
    needed = 2 * 2.65 * (psi - gap**2) / gap**2 / 100_000
    assert lower_bound(values, Rules(0.0), 100_000) == pytest.approx(needed / (1 + needed), rel=0.01)


def test_a_plan_predicts_a_race_from_named_figures_or_a_pilot(make_config, tmp_path):
    sections = {"task": {"limit": 150}, "grid": {"templates": ["english", "good_bad"], "k": [0]}, "out": str(tmp_path)}
    report = make_report(make_config(**sections))
    assert report.race is not None and 0 < report.race.bound <= report.race.expected <= 1
    done = race(make_config(**sections, name="pilot", race={"epsilon": 0.4, "confidence": 0.6, "holdout": 0}))
    with pytest.raises(ConfigError, match=r"race.pilot .* samples in common, expected 2 or more with 100 or more"):
        make_report(make_config(**sections, race={"pilot": done.run_dir}))
    race(make_config(**sections, name="pilot", race={"epsilon": 0.0, "confidence": 0.99, "holdout": 0}))
    pilot = make_report(make_config(**sections, race={"pilot": done.run_dir}))
    assert pilot.race is not None and "2 x 1" in pilot.race.basis
    with pytest.raises(RunDirError):
        make_report(make_config(**sections, race={"pilot": str(tmp_path / "none")}))
    assert make_report(make_config(grid={"templates": ["english"], "k": [0]})).race is None
