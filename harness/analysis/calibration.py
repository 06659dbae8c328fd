"""Label log-probabilities corrected for what the prompt prefers by itself.

Works on stored log-probabilities, without the model. Shapes: n samples, C labels, m content-free
inputs; log-probabilities are nats, in label order, and need not sum to one over the labels.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from harness.analysis.table import FloatArray, IntArray


def log_normalise(logprobs: FloatArray) -> FloatArray:
    """log p(y | x) among the labels alone, (..., C)."""
    normalised: FloatArray = logprobs - logsumexp(logprobs, axis=-1, keepdims=True)
    return normalised


def batch_calibrated(logprobs: FloatArray) -> FloatArray:
    """log p(y | x) - log mean_j p(y | x_j), p normalised over the labels (Zhou et al. 2023, arXiv 2309.17249).

    Transductive: the mean is over the very samples that are judged, without their gold labels. It
    presumes about as many samples of each class; on a set of one class it does harm.

    Args:
        logprobs: (n, C); rows with NaN stay NaN and do not enter the mean.
    """
    scores = log_normalise(logprobs)
    known = ~np.isnan(scores).any(axis=-1)
    if not known.any():
        return scores
    calibrated: FloatArray = scores - (logsumexp(scores[known], axis=0) - np.log(known.sum()))
    return calibrated


def contextually_calibrated(logprobs: FloatArray, content_free: FloatArray) -> FloatArray:
    """log p(y | x) - log mean over content-free inputs of p(y | input), p normalised over the labels.

    Zhao et al. 2021 (arXiv 2102.09690) with W = diag(p_cf)^-1, b = 0; they use `N/A`, `[MASK]`
    and the empty text.

    Args:
        logprobs: (n, C).
        content_free: (m, C) of the same template and demonstrations.
    """
    scores = log_normalise(np.atleast_2d(content_free))
    calibrated: FloatArray = log_normalise(logprobs) - (logsumexp(scores, axis=0) - np.log(len(scores)))
    return calibrated


def domain_conditional(logprobs: FloatArray, domain: FloatArray) -> FloatArray:
    """PMI_DC: log p(y | x) - log p(y | domain), neither normalised (Holtzman et al. 2021, arXiv 2104.08315).

    Args:
        logprobs: (n, C).
        domain: (C,) after a text that names the domain only, such as the query's last words.
    """
    calibrated: FloatArray = logprobs - domain
    return calibrated


def ensembled(logprobs: FloatArray) -> FloatArray:
    """log of the mean probability over templates, p normalised over the labels (Voronov et al. 2024,
    arXiv 2401.06766).

    Args:
        logprobs: (templates, n, C); a sample that failed under one template is NaN.

    Returns:
        (n, C)
    """
    scores = log_normalise(logprobs)
    mean: FloatArray = logsumexp(scores, axis=0) - np.log(len(scores))
    return mean


def decide(scores: FloatArray) -> IntArray:
    """(n,) class of the highest score, the first of equals; -1 where scores are missing."""
    known = ~np.isnan(scores).any(axis=-1) & np.isfinite(scores).any(axis=-1)
    return np.where(known, np.nan_to_num(scores, nan=-np.inf).argmax(axis=-1), -1)


def correct(scores: FloatArray, gold: IntArray) -> FloatArray:
    """(n,) 1 for right, 0 for wrong, NaN where scores are missing."""
    chosen = decide(scores)
    return np.where(chosen < 0, np.nan, (chosen == gold).astype(float))
