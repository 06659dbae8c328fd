"""Figures of cells by name (`scoring.metrics`), each with an interval: of predicted classes, of label probabilities.

What a figure needs of records is summed per sample or cluster, so that resamples are sums too. Refuses to know where
records lie.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy

from harness.analysis.intervals import LEVEL
from harness.analysis.resampling import bootstrap_weights
from harness.analysis.table import FloatArray, IntArray, cluster_codes

RESAMPLES, SEED = 1000, 20_000
BINS = 15
"""Of confidence, of equal width, as in Guo et al. 2017 (arXiv 1706.04599)."""
LABEL_COLUMNS = ["sample_id", "label_logprobs"]
"""What named metrics need of the records, besides `harness.analysis.cells.COLUMNS`."""
Figure = Callable[[FloatArray], FloatArray]
"""From sums, (resamples, features), to a figure of each resample, (resamples,); NaN where it is not defined."""


def _matrix(sums: FloatArray) -> FloatArray:
    """(resamples, gold, predicted) counts; the last class predicted is text that is no label, if there is one."""
    n_classes = int((np.sqrt(1 + 4 * sums.shape[1]) - 1) / 2)
    return sums.reshape(len(sums), n_classes, n_classes + 1)


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """NaN where nothing stands below."""
    found: FloatArray = np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)
    return found


def _hits(matrix: FloatArray) -> FloatArray:
    return np.asarray(np.diagonal(matrix[:, :, :-1], axis1=1, axis2=2))


def _recalls(matrix: FloatArray) -> FloatArray:
    return _ratio(_hits(matrix), matrix.sum(2))


def _precisions(matrix: FloatArray) -> FloatArray:
    return _ratio(_hits(matrix), matrix.sum(1)[:, :-1])


def _f1s(matrix: FloatArray) -> FloatArray:
    return _ratio(2 * _hits(matrix), matrix.sum(2) + matrix.sum(1)[:, :-1])


def _mean(values: FloatArray) -> FloatArray:
    """Over the classes that have a value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=1))


def balanced_accuracy(sums: FloatArray) -> FloatArray:
    """Mean recall over the classes that occur."""
    return _mean(_recalls(_matrix(sums)))


def macro_f1(sums: FloatArray) -> FloatArray:
    """Mean F1 over the classes that occur in gold or prediction; text that is no label is none of them."""
    return _mean(_f1s(_matrix(sums)))


def mcc(sums: FloatArray) -> FloatArray:
    """Matthews' correlation of several classes (Gorodkin 2004); 0 where one side has one class, as in scikit-learn."""
    matrix = _matrix(sums)
    n, right = matrix.sum((1, 2)), _hits(matrix).sum(1)
    gold, predicted = matrix.sum(2), matrix.sum(1)
    covariance = right * n - (gold * predicted[:, :-1]).sum(1)
    spread = np.sqrt((n**2 - (gold**2).sum(1)) * (n**2 - (predicted**2).sum(1)))
    return np.asarray(
        np.where(spread > 0, np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0), 0.0)
    )


def kappa(sums: FloatArray) -> FloatArray:
    """Cohen's kappa."""
    matrix = _matrix(sums)
    n, right = matrix.sum((1, 2)), _hits(matrix).sum(1)
    chance = (matrix.sum(2) * matrix.sum(1)[:, :-1]).sum(1) / np.maximum(n, 1)
    return _ratio(right - chance, n - chance)


def mae(sums: FloatArray) -> FloatArray:
    """Mean distance between the places of right and predicted class, over the predictions that are classes."""
    matrix = _matrix(sums)[:, :, :-1]
    places = np.arange(matrix.shape[1])
    distances = np.abs(places[:, None] - places)
    return _ratio((matrix * distances).sum((1, 2)), matrix.sum((1, 2)))


def spearman(sums: FloatArray) -> FloatArray:
    """Spearman's correlation of the places of right and predicted class, over the predictions that are classes."""
    matrix = _matrix(sums)[:, :, :-1]
    gold, predicted = matrix.sum(2), matrix.sum(1)
    ranks = [np.cumsum(counts, axis=1) - (counts - 1) / 2 for counts in (gold, predicted)]
    n = matrix.sum((1, 2))
    centred = [rank - (n[:, None] + 1) / 2 for rank in ranks]
    covariance = np.einsum("rij,ri,rj->r", matrix, *centred)
    spreads = [(counts * rank**2).sum(1) for counts, rank in zip((gold, predicted), centred, strict=True)]
    return _ratio(covariance, np.sqrt(spreads[0] * spreads[1]))


def ece(sums: FloatArray) -> FloatArray:
    """Expected calibration error: mean distance of confidence and accuracy over `BINS` bins, weighted by size.

    On few samples it is too high on average, since chance parts confidence and accuracy too.
    """
    n, confidence, right = sums.reshape(len(sums), 3, BINS).transpose(1, 0, 2)
    return _ratio(np.abs(confidence - right).sum(1), n.sum(1))


def brier(sums: FloatArray) -> FloatArray:
    """Mean squared distance of the label probabilities from the right class; of two classes half of it, as usual."""
    return _ratio(sums[:, 0], sums[:, 1])


MATRIX_FIGURES: Mapping[str, Figure] = {
    "macro_f1": macro_f1,
    "balanced_accuracy": balanced_accuracy,
    "mcc": mcc,
    "kappa": kappa,
    "mae": mae,
    "spearman": spearman,
}
PER_CLASS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "precision": _precisions,
    "recall": _recalls,
    "f1": _f1s,
}
CLASS_METRICS = (*MATRIX_FIGURES, "per_class", "auroc", "ece", "brier")
"""Names for tasks with classes; `per_class` are precision, recall and F1 of each."""


class NamedMetrics:
    """Further figures of cells, by name.

    Args:
        names: of `CLASS_METRICS`.
        class_names: of the task.
        clusters: sample id to cluster; an empty text stands for none.
    """

    def __init__(self, names: Sequence[str], class_names: Sequence[str], clusters: Mapping[str, str]) -> None:
        self.names, self.class_names, self.clusters = names, list(class_names), clusters

    def figures(self, cell: pd.DataFrame) -> dict[str, float]:
        """Each metric with `_low` and `_high`; those of probabilities are NaN where labels were not compared.

        Args:
            cell: the records of one cell, with `LABEL_COLUMNS`; failed samples are left out.
        """
        scored = cell[cell["prediction"].notna()]
        codes = cluster_codes(scored["sample_id"].tolist(), self.clusters)
        gold, predicted = (scored[name].to_numpy(dtype=np.int64) for name in ("gold", "prediction"))
        n_classes = len(self.class_names)
        counts = np.zeros((len(scored), n_classes, n_classes + 1))
        counts[np.arange(len(scored)), gold, np.where(predicted < 0, n_classes, predicted)] = 1
        matrix = counts.reshape(len(scored), n_classes * (n_classes + 1))
        found: dict[str, float] = {}
        for name in self.names:
            if name in MATRIX_FIGURES:
                found |= with_interval(name, MATRIX_FIGURES[name], matrix, codes)
            elif name == "per_class":
                for figure, of_classes in PER_CLASS.items():
                    found |= self._per_class(figure, of_classes, matrix, codes)
            else:
                found |= _of_probabilities(name, scored["label_logprobs"].tolist(), gold, predicted, codes)
        return found

    def _per_class(
        self, figure: str, of_classes: Callable[[FloatArray], FloatArray], matrix: FloatArray, codes: IntArray | None
    ) -> dict[str, float]:
        found: dict[str, float] = {}
        for place, name in enumerate(self.class_names):
            found |= with_interval(f"{figure}_{name}", partial(_of_class, of_classes, place), matrix, codes)
        return found


def _of_class(of_classes: Callable[[FloatArray], FloatArray], place: int, sums: FloatArray) -> FloatArray:
    return np.asarray(of_classes(_matrix(sums))[:, place])


def with_interval(
    name: str, figure: Figure, features: FloatArray, clusters: IntArray | None, is_biased: bool = False
) -> dict[str, float]:
    """A figure of sums with a 95% interval from resampled samples or clusters.

    Args:
        name: of the figure.
        figure: from sums to its values.
        features: (samples, features), what is summed.
        clusters: codes of the samples; None where they are independent.
        is_biased: whether a sample's figure is too high on average, by as much as a resample's is above the sample's.
    """
    if not len(features):
        return _named(name, np.nan, np.empty(0))
    value = float(figure(features.sum(0)[None])[0])
    values = figure(_resampled(features, clusters))
    return _named(name, value, np.maximum(2 * value - values, 0) if is_biased else values)


def _named(name: str, value: float, resampled: FloatArray) -> dict[str, float]:
    """A figure and the percentiles of its resamples."""
    known = resampled[np.isfinite(resampled)]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(known, [tail, 1 - tail]) if np.isfinite(value) and len(known) else (np.nan, np.nan)
    return {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}


def _resampled(features: FloatArray, clusters: IntArray | None) -> FloatArray:
    """(resamples, features) sums. Equal rows of independent samples are drawn by their number."""
    if clusters is None:
        rows, counts = np.unique(features, axis=0, return_counts=True)
        if len(rows) < len(features) // 2:
            rng = np.random.default_rng(SEED)
            drawn: FloatArray = rng.multinomial(len(features), counts / len(features), RESAMPLES) @ rows
            return drawn
        units = features
    else:
        units = np.zeros((int(clusters.max()) + 1, features.shape[1]))
        np.add.at(units, clusters, features)
    chunks = [weights @ units for weights in bootstrap_weights(len(units), RESAMPLES, SEED)]
    return np.concatenate(chunks)


def _of_probabilities(
    name: str, logprobs: list[Any], gold: IntArray, predicted: IntArray, codes: IntArray | None
) -> dict[str, float]:
    if not logprobs or any(row is None for row in logprobs):
        return _named(name, np.nan, np.empty(0))
    rows = [scipy.special.softmax(np.asarray(row, dtype=float)) for row in logprobs]
    if name == "ece":
        return with_interval(name, ece, _calibration_features(rows, gold, predicted), codes, is_biased=True)
    if name == "brier":
        halves = [0.5 if len(row) == 2 else 1.0 for row in rows]
        distances = [
            half * float((row**2).sum() - 2 * row[right] + 1)
            for half, row, right in zip(halves, rows, gold.tolist(), strict=True)
        ]
        return with_interval(name, brier, np.stack([np.asarray(distances), np.ones(len(rows))], axis=1), codes)
    return _auroc_with_interval(name, np.asarray([row[1] for row in rows]), gold, codes)


def _calibration_features(rows: Sequence[FloatArray], gold: IntArray, predicted: IntArray) -> FloatArray:
    """(samples, 3 x BINS): one, confidence and right or wrong, each in the bin of the confidence."""
    chosen = zip(rows, predicted.tolist(), strict=True)
    confidence = np.asarray([row[place] for row, place in chosen])
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    features = np.zeros((len(rows), 3, BINS))
    places = np.arange(len(rows))
    for part, values in enumerate((np.ones(len(rows)), confidence, gold == predicted)):
        features[places, part, bins] = values
    return features.reshape(len(rows), -1)


def auroc(scores: FloatArray, gold: IntArray, weights: FloatArray) -> FloatArray:
    """Area under the ROC curve: the chance that a sample of class 1 has a higher score than one of class 0.

    Args:
        scores: (samples,) of class 1; equal ones count half.
        gold: (samples,) 0 or 1.
        weights: (resamples, samples).

    Returns:
        (resamples,); NaN where one class is not there.
    """
    values, place = np.unique(scores, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(values)))
    positive, negative = (np.add.reduceat((weights * (gold == label))[:, order], starts, axis=1) for label in (1, 0))
    below = np.cumsum(negative, axis=1) - negative / 2
    return _ratio((positive * below).sum(1), positive.sum(1) * negative.sum(1))


def _auroc_with_interval(name: str, scores: FloatArray, gold: IntArray, codes: IntArray | None) -> dict[str, float]:
    value = float(auroc(scores, gold, np.ones((1, len(gold))))[0])
    n_units = len(gold) if codes is None else int(codes.max()) + 1
    own = np.arange(len(gold)) if codes is None else codes
    drawn = [auroc(scores, gold, weights[:, own]) for weights in bootstrap_weights(n_units, RESAMPLES, SEED)]
    return _named(name, value, np.concatenate(drawn))
