"""Random draws over samples or clusters: bootstrap weights and sign flips.

Every stream is made from an explicit seed. Refuses to know strategies.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.analysis.table import FloatArray, IntArray

WEIGHTS_PER_CHUNK = 1 << 22
"""Resampling weights in memory at once: 32 MiB."""


def unit_sums(values: FloatArray, clusters: IntArray | None) -> FloatArray:
    """Sums over the samples of each cluster.

    Args:
        values: (..., samples) without NaN.
        clusters: (samples,) codes 0..G-1; None: every sample is a unit.

    Returns:
        (..., units)
    """
    if clusters is None:
        return values
    n_units = int(clusters.max()) + 1
    rows = values.reshape(-1, values.shape[-1])
    sums = np.array([np.bincount(clusters, row, n_units) for row in rows], dtype=np.float64)
    return sums.reshape(*values.shape[:-1], n_units)


def bootstrap_weights(n_units: int, replicates: int, seed: int) -> Iterator[FloatArray]:
    """How often each unit is drawn in resamples of the same size.

    Args:
        n_units: samples or clusters.
        replicates: resamples in all.
        seed: of the stream; the weights of a replicate do not depend on how they are chunked.

    Yields:
        (some replicates, n_units); together `replicates` rows.
    """
    rng = np.random.default_rng(seed)
    step = max(1, WEIGHTS_PER_CHUNK // n_units)
    for start in range(0, replicates, step):
        rows = min(step, replicates - start)
        drawn = rng.integers(0, n_units, (rows, n_units)) + np.arange(rows)[:, None] * n_units
        counts = np.bincount(drawn.ravel(), minlength=rows * n_units)
        yield counts.reshape(rows, n_units).astype(np.float64)


def sign_flip_probability(sums: FloatArray, flips: int, seed: int) -> float:
    """Two-sided p-value of a sum under random signs, the null of symmetry about zero.

    All 2^(units-1) sign patterns where they are no more than `flips`; else so many random ones,
    the observed among them (Phipson and Smyth 2010), so that p is never below 1 / (flips + 1).

    Args:
        sums: (units,) sums of the differences of each sample or cluster.
        flips: patterns at most.
        seed: of the random ones.
    """
    units = len(sums)
    if units == 0:
        return 1.0
    observed = abs(float(sums.sum())) * (1 - 1e-12)
    if 2 ** (units - 1) <= flips:
        codes = np.arange(2 ** (units - 1))[:, None]
        signs = 1.0 - 2 * ((codes >> np.arange(units)) & 1)
        return float((np.abs(signs @ sums) >= observed).mean())
    signs = np.random.default_rng(seed).integers(0, 2, (flips, units), dtype=np.int8) * 2.0 - 1
    return float((1 + (np.abs(signs @ sums) >= observed).sum()) / (flips + 1))
