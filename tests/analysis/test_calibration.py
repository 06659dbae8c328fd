"""Calibrated scores against the papers' formulas written out."""

import math

import numpy as np
import pytest

from harness.analysis.calibration import (
    batch_calibrated,
    contextually_calibrated,
    correct,
    decide,
    domain_conditional,
    ensembled,
)

RNG = np.random.default_rng(3)
LOGPROBS = np.log(RNG.dirichlet([1, 2, 3], 8) * RNG.uniform(0.1, 0.9, (8, 1)))


def probabilities(row):
    weights = [math.exp(x) for x in row]
    return [w / sum(weights) for w in weights]


def test_batch_calibration_divides_by_the_mean_over_the_batch():
    table = [probabilities(row) for row in LOGPROBS]
    found = batch_calibrated(LOGPROBS)
    for i in range(8):
        for label in range(3):
            prior = sum(row[label] for row in table) / 8
            assert found[i, label] == pytest.approx(math.log(table[i][label] / prior))


def test_batch_calibration_undoes_a_constant_preference():
    """Whatever constant is added to a label's scores, decisions stay the same in balanced data."""
    rng = np.random.default_rng(0)
    gold = np.arange(400) % 2
    scores = np.stack([-2.0 * (gold == 1), -2.0 * (gold == 0)], axis=1) + 0.3 * rng.normal(size=(400, 2))
    shifted = scores + np.array([3.0, 0.0])
    assert np.mean(correct(shifted, gold)) < 0.6
    assert np.mean(correct(batch_calibrated(shifted), gold)) > 0.95


def test_failed_samples_do_not_enter_the_batchs_mean():
    with_gap = np.concatenate([LOGPROBS[:3], np.full((1, 3), np.nan), LOGPROBS[3:]])
    found = batch_calibrated(with_gap)
    assert np.isnan(found[3]).all()
    np.testing.assert_allclose(np.delete(found, 3, axis=0), batch_calibrated(LOGPROBS))
    assert np.isnan(batch_calibrated(np.full((2, 3), np.nan))).all()


def test_contextual_calibration_divides_by_the_mean_over_content_free_inputs():
    free = np.log(RNG.dirichlet([5, 1, 1], 3) * 0.5)
    prior = np.mean([probabilities(row) for row in free], axis=0)
    expected = [np.log(np.array(probabilities(row)) / prior) for row in LOGPROBS]
    np.testing.assert_allclose(contextually_calibrated(LOGPROBS, free), expected)
    np.testing.assert_allclose(contextually_calibrated(free[:1], free[0]), np.zeros((1, 3)), atol=1e-12)


def test_contextual_calibration_decides_as_zhaos_diagonal_matrix():
    free = np.log(RNG.dirichlet([5, 1, 1], 3))
    matrix = np.linalg.inv(np.diag(np.mean([probabilities(row) for row in free], axis=0)))
    expected = [int(np.argmax(matrix @ np.array(probabilities(row)))) for row in LOGPROBS]
    assert decide(contextually_calibrated(LOGPROBS, free)).tolist() == expected


def test_pmi_subtracts_the_domains_log_probabilities():
    domain = np.log([0.5, 0.2, 0.1])
    np.testing.assert_allclose(np.exp(domain_conditional(LOGPROBS, domain)), np.exp(LOGPROBS) / [0.5, 0.2, 0.1])


def test_the_ensemble_is_the_mean_probability():
    tables = np.log(RNG.dirichlet([1, 1], (4, 6)))
    np.testing.assert_allclose(np.exp(ensembled(tables)), np.exp(tables).mean(axis=0))


def test_a_missing_score_is_neither_right_nor_wrong_and_ties_take_the_first():
    scores = np.array([[0.0, 1.0], [np.nan, 1.0], [2.0, 2.0], [-np.inf, -np.inf], [-np.inf, -3.0]])
    assert decide(scores).tolist() == [1, -1, 0, -1, 1]
    np.testing.assert_array_equal(correct(scores, np.array([1, 1, 1, 0, 1])), [1, np.nan, 0, np.nan, 1])
