"""Which of the task's classes each label of a classifier is, told by labelled rows where its names do not, and checked
where they do.

Knows labels, gold classes and log-probabilities; refuses to know models.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy

from harness.core.errors import ModelError

SURE = 1e-3
"""The largest p, one-sided, at which one order is taken to be better than another."""
Ints = npt.NDArray[np.int64]


def class_order(
    name: str, labels: Sequence[str], named: Sequence[int] | None, gold: Ints, predicted: Ints
) -> tuple[tuple[int, ...], str]:
    """The class of each label, and what is to be said of it.

    Args:
        name: of the classifier.
        labels: in its own order.
        named: the class of each label by name; None where the names do not tell.
        gold: (rows,) classes of labelled rows of the pool.
        predicted: (rows,) places among the labels.

    Raises:
        ModelError: the names say otherwise than the rows, or neither tells.
    """
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(counts, (predicted, gold), 1)
    best = scipy.optimize.linear_sum_assignment(-counts)[1]
    if named is not None:
        order = np.array(named)
        if _is_better(best, order, gold, predicted):
            raise ModelError(
                f"reference '{name}': its id2label is swapped: read by name {_share(order, gold, predicted)} of "
                f"{len(gold)} labelled rows of the pool are right, with {_words(labels, order, best)} exchanged "
                f"{_share(best, gold, predicted)}; mend id2label in its config.json"
            )
        return tuple(order.tolist()), ""
    for one, other in itertools.combinations(range(len(labels)), 2):
        rival = best.copy()
        rival[[one, other]] = rival[[other, one]]
        if not _is_better(best, rival, gold, predicted):
            raise ModelError(
                f"reference '{name}': its labels {labels[one]} and {labels[other]} name no classes of the task, and "
                f"{len(gold)} labelled rows of the pool do not tell which is which; expected class names in id2label "
                "of its config.json, or a classifier of this task"
            )
    share = _share(best, gold, predicted)
    swapped = "" if list(best) == sorted(best) else ", which is not the order of the task"
    return (
        tuple(best.tolist()),
        f"its labels {', '.join(labels)} are the classes {', '.join(map(str, best))}{swapped}, told by {len(gold)} "
        f"labelled rows of the pool ({share} right)",
    )


def _is_better(one: Ints, other: Ints, gold: Ints, predicted: Ints) -> bool:
    first, second = one[predicted] == gold, other[predicted] == gold
    wins, losses = int((first & ~second).sum()), int((second & ~first).sum())
    return wins > losses and bool(scipy.stats.binomtest(wins, wins + losses, 0.5, "greater").pvalue < SURE)


def _share(order: Ints, gold: Ints, predicted: Ints) -> str:
    return f"{(order[predicted] == gold).mean():.0%}"


def _words(labels: Sequence[str], order: Ints, best: Ints) -> str:
    return " and ".join(label for label, a, b in zip(labels, order, best, strict=True) if a != b)
