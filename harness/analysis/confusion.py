"""Which classes are taken for which: confusion matrix, recall, MCC, coverage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis.intervals import Estimate, mean_interval
from harness.analysis.table import FloatArray, IntArray


@dataclass(frozen=True)
class Confusion:
    """Gold against predicted classes of one cell."""

    counts: IntArray
    """(C, C + 1): gold class by predicted class; the last column is text that is no label."""
    n_attempted: int
    """Samples with a record, failed ones included."""

    @property
    def n_scored(self) -> int:
        """Samples that did not fail."""
        return int(self.counts.sum())

    @property
    def coverage(self) -> float:
        """Scored samples over attempted ones; NaN without any."""
        return self.n_scored / self.n_attempted if self.n_attempted else float("nan")

    @property
    def answered(self) -> float:
        """Share of the scored samples for which the prediction is a label."""
        return 1 - float(self.counts[:, -1].sum()) / self.n_scored if self.n_scored else float("nan")

    @property
    def predicted_share(self) -> FloatArray:
        """(C,) share of each class among all predictions, text that is no label counted as one."""
        with np.errstate(invalid="ignore"):
            share: FloatArray = self.counts[:, :-1].sum(axis=0) / np.float64(self.n_scored)
        return share

    def recall(self, label: int) -> Estimate:
        """Share of a gold class that is found, with Wilson's interval; NaN without samples of it."""
        hits, total = int(self.counts[label, label]), int(self.counts[label].sum())
        return mean_interval(np.repeat([1.0, 0.0], [hits, total - hits]))

    @property
    def mcc(self) -> float:
        """Matthews' correlation for any number of classes; 0 when gold or prediction is one class.

        Source: Gorodkin 2004, Computational Biology and Chemistry 28(5). Text that is no label is
        a class of its own that is never right.
        """
        counts = np.vstack([self.counts, np.zeros(self.counts.shape[1], dtype=np.int64)]).astype(float)
        n, hits = counts.sum(), np.trace(counts)
        gold, predicted = counts.sum(axis=1), counts.sum(axis=0)
        if n == 0:
            return float("nan")
        bottom = (n**2 - (predicted**2).sum()) * (n**2 - (gold**2).sum())
        return float((hits * n - (gold * predicted).sum()) / np.sqrt(bottom)) if bottom > 0 else 0.0


def confusion(cell: pd.DataFrame, n_classes: int) -> Confusion:
    """The confusion matrix of one cell.

    Args:
        cell: its records, with `gold` in 0..C-1 and `prediction` (null: failed, -1: no label).
        n_classes: C.
    """
    scored = cell[cell["prediction"].notna()]
    gold = scored["gold"].to_numpy(dtype=np.int64)
    predicted = scored["prediction"].to_numpy(dtype=np.int64)
    predicted = np.where(predicted < 0, n_classes, predicted)
    counts = np.bincount(gold * (n_classes + 1) + predicted, minlength=n_classes * (n_classes + 1))
    return Confusion(counts.reshape(n_classes, n_classes + 1), len(cell))
