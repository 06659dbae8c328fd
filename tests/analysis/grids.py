"""Simulated results whose truth is known."""

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, norm

from harness.analysis.table import AXES, ValueTable


def binary_strategies(rng, shares, n, clusters=None, sample_part=0.6, cluster_part=0.0):
    """(strategies, n) 0/1 values with these expected shares; strategies correlate over samples.

    `sample_part` and `cluster_part` are the shares of the latent variance that all strategies have
    in common per sample and per cluster."""
    latent = np.sqrt(sample_part) * rng.normal(size=n)
    if clusters is not None:
        latent += np.sqrt(cluster_part) * rng.normal(size=clusters.max() + 1)[clusters]
    own = np.sqrt(1 - sample_part - cluster_part) * rng.normal(size=(len(shares), n))
    if clusters is not None:
        # Half of what is a strategy's own is shared within clusters, so differences cluster too.
        shared = rng.normal(size=(len(shares), clusters.max() + 1))[:, clusters]
        own = (own + np.sqrt(1 - sample_part - cluster_part) * shared) / np.sqrt(2)
    return (latent + own < norm.ppf(shares)[:, None]).astype(float)


def crossed(rng, n_seeds, n, sample=1.0, seed=0.0, noise=1.0, mean=0.0):
    """(seeds, n) normal values: mean + sample effect + seed effect + noise, given standard deviations."""
    return (
        mean
        + sample * rng.normal(size=n)
        + seed * rng.normal(size=(n_seeds, 1))
        + noise * rng.normal(size=(n_seeds, n))
    )


def table_of(values, keys, clusters=None, name="accuracy"):
    """A table; keys are (model, template, k, seed), seed None for K = 0."""
    values = np.asarray(values, dtype=float)
    cells = pd.DataFrame([("", *key, "") for key in keys], columns=list(AXES))
    cells["seed"] = cells["seed"].astype("Int64")
    ids = np.array([f"s{i}" for i in range(values.shape[1])], dtype=object)
    return ValueTable(name, cells, ids, clusters, values, np.ones(values.shape, dtype=bool), np.full(len(keys), np.nan))


def records_of(rows):
    """Records from (template, k, seed, sample_id, gold, prediction or None)."""
    frame = pd.DataFrame(rows, columns=["template", "k", "seed", "sample_id", "gold", "prediction"])
    frame["prediction"] = frame["prediction"].astype("Int32")
    return frame.assign(model="m", task="t")


def latent_share(accuracy, agreement):
    """The `sample_part` at which two strategies of this accuracy agree on that share of samples."""
    t = norm.ppf(accuracy)

    def agreeing(part):
        both = multivariate_normal(cov=[[1, part], [part, 1]]).cdf([t, t])
        return 1 - 2 * (accuracy - both)

    return brentq(lambda part: agreeing(part) - agreement, 0.0, 0.9999)


def seeded_strategies(rng, shares, n_seeds, n, seed_sd, sample_part=0.9, shared=0.3):
    """(strategies, seeds, n) 0/1 values whose accuracy a draw of demonstrations moves by `seed_sd`.

    A part `shared` of the draws' variance is common to all strategies; 0.7 of what is a strategy's own per
    sample is common to its draws."""
    count = len(shares)
    moved = np.sqrt(shared) * rng.normal(size=(1, n_seeds)) + np.sqrt(1 - shared) * rng.normal(size=(count, n_seeds))
    levels = norm.ppf(np.clip(np.asarray(shares)[:, None] + seed_sd * moved, 0.02, 0.998))
    own = np.sqrt(0.7) * rng.normal(size=(count, 1, n)) + np.sqrt(0.3) * rng.normal(size=(count, n_seeds, n))
    latent = np.sqrt(sample_part) * rng.normal(size=n) + np.sqrt(1 - sample_part) * own
    return (latent < levels[..., None]).astype(float)
