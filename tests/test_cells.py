"""Figures per cell, by hand-checkable numbers."""

import math

import pandas as pd
import pytest

from harness.analysis.cells import KEYS, cell_figures, macro_f1, over_seeds, wilson_interval


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (7, 10), (1, 1), (345, 500), (49_000, 50_000)])
def test_wilson_is_its_closed_form(successes, n):
    z = 1.959963984540054
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = wilson_interval(successes, n)
    assert low == pytest.approx(max(0, centre - half), abs=1e-12)
    assert high == pytest.approx(min(1, centre + half), abs=1e-12)


def test_wilson_numbers_by_hand():
    """8 of 10: centre (0.8 + 0.19207) / 1.38415 = 0.71674, half width 0.22658."""
    assert wilson_interval(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)
    assert wilson_interval(0, 1) == pytest.approx((0.0, 3.84146 / 4.84146), abs=1e-5)


def test_wilson_at_another_level():
    low, high = wilson_interval(50, 100, level=0.6826894921)  # one standard deviation: z = 1
    assert (low, high) == pytest.approx((0.5 - 0.5 / math.sqrt(101), 0.5 + 0.5 / math.sqrt(101)), abs=1e-9)


def test_wilson_of_nothing_is_not_a_number():
    assert all(math.isnan(x) for x in wilson_interval(0, 0))


def test_macro_f1_by_hand():
    """Class 0: 1 hit, 2 gold, 2 predicted: 2/4. Class 1: 2 hits, 3 gold, 3 predicted: 4/6."""
    assert macro_f1([0, 0, 1, 1, 1], [0, 1, 1, 1, 0], 2) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_macro_f1_of_a_constant_guess_counts_the_class_that_was_never_guessed_as_zero():
    """Always 1 on two of each: class 0 has F1 0, class 1 has 2*2/(2+4) = 2/3."""
    assert macro_f1([0, 0, 1, 1], [1, 1, 1, 1], 2) == pytest.approx(1 / 3)


def test_macro_f1_leaves_out_a_class_that_never_occurs():
    assert macro_f1([1, 1], [1, 1], 3) == 1.0
    assert math.isnan(macro_f1([], [], 2))


FIGURES = ("gold", "prediction", "greedy_prediction", "off_label_mass")


def records(rows, **keys):
    base = {"model": "m", "task": "t", "template": "a", "k": 0, "seed": 1, **keys}
    frame = pd.DataFrame([dict(zip(FIGURES, r, strict=True)) for r in rows])
    for name, value in base.items():
        frame[name] = value
    for name in ("prediction", "greedy_prediction"):
        frame[name] = frame[name].astype("Int32")
    return frame


def test_one_cell_by_hand():
    """Four scored: 0->0, 0->1, 1->1, 1->1. Greedy right twice, wrong once, no label once."""
    frame = records([(0, 0, 0, 0.1), (0, 1, None, 0.2), (1, 1, 0, 0.3), (1, 1, 1, 0.4)])
    row = cell_figures(frame, 2).iloc[0]
    assert (row.n_attempted, row.n_scored, row.n_failed) == (4, 4, 0)
    assert row.accuracy == 0.75
    assert (row.low, row.high) == wilson_interval(3, 4)
    assert row.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert row.predicted_positive_share == 0.75
    assert row.off_label_mass == pytest.approx(0.25)
    assert row.greedy_accuracy == 0.5


def test_failed_samples_count_as_attempted_and_are_neither_right_nor_wrong():
    """Two of three scored are right; two more failed: accuracy is 2/3, not 2/5."""
    frame = records([(0, 0, 0, 0.5), (1, 1, 1, 0.5), (1, 0, 0, 0.5), (0, None, None, None), (1, None, None, None)])
    row = cell_figures(frame, 2).iloc[0]
    assert (row.n_attempted, row.n_scored, row.n_failed) == (5, 3, 2)
    assert row.accuracy == pytest.approx(2 / 3)
    assert (row.low, row.high) == wilson_interval(2, 3)
    assert row.greedy_accuracy == pytest.approx(2 / 3)
    assert row.off_label_mass == 0.5


def test_a_cell_where_all_failed_has_no_accuracy_but_stays_in_the_table():
    frame = pd.concat([records([(0, None, None, None)]), records([(0, 0, 0, 0.0)], k=4)])
    cells = cell_figures(frame, 2, {"always": lambda gold, predicted: 1.0})
    assert cells["n_attempted"].tolist() == [1, 1]
    assert cells["n_scored"].tolist() == [0, 1]
    for name in ("accuracy", "low", "high", "macro_f1", "greedy_accuracy", "off_label_mass", "always"):
        assert math.isnan(cells.loc[0, name])
    assert cells.loc[1, "accuracy"] == 1.0


def test_greedy_answers_outside_the_labels_are_wrong():
    frame = records([(0, 0, None, 0.9), (1, 1, 1, 0.1)])
    assert cell_figures(frame, 2).loc[0, "greedy_accuracy"] == 0.5


def test_cells_are_told_apart_by_every_key_and_come_in_the_order_of_the_records():
    parts = [records([(0, 0, 0, 0.0)], **{key: value}) for key, value in
             [("model", "z"), ("template", "b"), ("k", 10), ("k", 4), ("seed", 2), ("model", "a")]]  # fmt: skip
    cells = cell_figures(pd.concat(parts), 2)
    assert len(cells) == 6
    expected = [
        ("z", "t", "a", 0, 1), ("m", "t", "b", 0, 1), ("m", "t", "a", 10, 1), ("m", "t", "a", 4, 1),
        ("m", "t", "a", 0, 2), ("a", "t", "a", 0, 1),
    ]  # fmt: skip
    assert list(cells[KEYS].itertuples(index=False, name=None)) == expected


def test_a_tasks_own_metric_sees_scored_samples_only():
    frame = records([(0, 1, 1, 0.0), (1, None, None, None), (1, 1, 1, 0.0)])
    seen = []

    def metric(gold, predicted):
        seen.append((list(gold), list(predicted)))
        return 0.125

    assert cell_figures(frame, 2, {"mine": metric}).loc[0, "mine"] == 0.125
    assert seen == [([0, 1], [1, 1])]


def test_over_seeds_gives_mean_and_spread():
    """Seeds 0.5, 0.7, 0.9 of one strategy: mean 0.7, spread 0.4; another has one seed."""
    parts = [records([(0, 0, 0, 0.0)] * right + [(0, 1, 1, 0.0)] * (10 - right), k=4, seed=seed)
             for seed, right in ((1, 5), (2, 7), (3, 9))]  # fmt: skip
    parts.append(records([(0, 0, 0, 0.0)], k=8))
    parts.append(records([(0, None, None, None)], k=8, seed=2))
    table = over_seeds(cell_figures(pd.concat(parts), 2))
    assert table["k"].tolist() == [4, 8]
    assert table["n_seeds"].tolist() == [3, 1]
    assert table.loc[0, ["mean", "least", "most", "spread"]].tolist() == pytest.approx([0.7, 0.5, 0.9, 0.4])
    assert table.loc[1, "spread"] == 0.0
