"""Confusion matrices, by hand and against correlation."""

import math

import numpy as np
import pandas as pd
import pytest

from harness.analysis.cells import wilson_interval
from harness.analysis.confusion import confusion


def cell(gold, prediction):
    return pd.DataFrame({"gold": gold, "prediction": pd.array(prediction, dtype="Int32")})


def test_counts_by_hand():
    found = confusion(cell([0, 0, 0, 1, 1, 1], [0, 1, -1, 1, None, 0]), 2)
    assert found.counts.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert (found.n_scored, found.n_attempted) == (5, 6)
    assert found.coverage == pytest.approx(5 / 6)
    assert found.answered == pytest.approx(4 / 5)
    assert found.predicted_share.tolist() == pytest.approx([0.4, 0.4])


def test_recall_has_wilsons_interval_over_the_class():
    recall = confusion(cell([0] * 10 + [1] * 4, [0] * 7 + [1] * 3 + [1] * 4), 2).recall(0)
    assert (recall.value, recall.n) == (0.7, 10)
    assert (recall.low, recall.high) == pytest.approx(wilson_interval(7, 10))


def test_mcc_of_two_classes_is_their_correlation():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 2, 200)
    predicted = np.where(rng.random(200) < 0.7, gold, 1 - gold)
    assert confusion(cell(gold, predicted), 2).mcc == pytest.approx(np.corrcoef(gold, predicted)[0, 1])


def test_mcc_of_several_classes_is_gorodkins_covariance_ratio():
    rng = np.random.default_rng(1)
    gold = rng.integers(0, 3, 150)
    predicted = np.where(rng.random(150) < 0.5, gold, rng.integers(-1, 3, 150))
    truth, guess = np.eye(4)[gold], np.eye(4)[predicted % 4]

    def covariance(a, b):
        return ((a - a.mean(axis=0)) * (b - b.mean(axis=0))).sum()

    expected = covariance(truth, guess) / math.sqrt(covariance(truth, truth) * covariance(guess, guess))
    assert confusion(cell(gold, predicted), 3).mcc == pytest.approx(expected)


@pytest.mark.parametrize("predicted", [[0, 0, 0, 0], [1, 1, 1, 1]])
def test_mcc_of_one_answer_for_all_is_zero(predicted):
    assert confusion(cell([0, 1, 0, 1], predicted), 2).mcc == 0.0


def test_nothing_scored_has_no_figures():
    found = confusion(cell([0, 1], [None, None]), 2)
    assert (found.n_scored, found.coverage) == (0, 0.0)
    assert math.isnan(found.mcc)
    assert math.isnan(found.answered)
    assert math.isnan(found.recall(0).value)
    assert np.isnan(found.predicted_share).all()
