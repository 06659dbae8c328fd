"""Bets on the difference of two strategies, sample by sample in random order: when they win much, it is no chance.

Knows scores drawn without replacement, the weights of clusters and Ville's inequality; refuses to know rounds and
decisions.
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from harness.analysis.table import FloatArray

MOST_AT_STAKE = 0.95
"""Of the capital, lost if the next difference is the least that it can be."""


class Steps:
    """The race's steps: samples, or clusters taken as a whole, in random order.

    A step's score is the sum of its samples' scores, in units of the mean number of samples of a step. So all scores
    of a strategy sum to its accuracy times the number of steps, whatever the sizes; a step of one sample scores 0..1.

    Args:
        sizes: (steps,) samples of each, in the race's order.

    Attributes:
        n: number of steps.
        weights: (steps,) the most that each can score; 1 where all steps have one sample.
    """

    def __init__(self, sizes: NDArray[np.int64]) -> None:
        self.n = len(sizes)
        self.weights: FloatArray = sizes / sizes.mean()
        backwards = self.weights[::-1]
        self._left = np.arange(self.n, -1, -1, dtype=float)
        self._sums = np.append(np.cumsum(backwards)[::-1], 0.0)
        # Sizes are whole numbers; rounding must not make certain what is not.
        self._sums += 1e-9 * self.n
        self._largest = np.maximum.accumulate(backwards)[::-1]

    def log_capital(
        self, differences: FloatArray, before: FloatArray, first: int, margin: float, stakes: FloatArray
    ) -> FloatArray:
        """What bets that one strategy beats another by more than `-margin` have won, as logarithms.

        Each factor is `1 + stake (D + (S + n margin) / r)`: D the step's difference, S the sum of those before, r
        the steps left. If all differences sum to `-n margin` or less, what is left sums to `-(S + n margin)` or
        less, so that no factor is more than 1 on average, whatever is known of the steps before. Stakes shrink so
        that no factor falls below `1 - MOST_AT_STAKE`.

        Args:
            differences: (pairs, steps) from step `first` on.
            before: (pairs,) their sums before step `first`.
            first: index of the first of the steps.
            margin: in units of accuracy, 0 or more.
            stakes: (bets,).

        Returns:
            (pairs, bets) sums of log factors; infinite where no values of the steps left could bring the sum down
            to `-n margin`.
        """
        n_pairs, n_steps = differences.shape
        if not n_steps:
            return np.zeros((n_pairs, len(stakes)))
        places = slice(first, first + n_steps)
        after = before[:, None] + np.cumsum(differences, axis=1)
        offsets = (after - differences + self.n * margin) / self._left[places]
        gains = differences + offsets
        room = np.maximum(self._largest[places] - offsets, 1e-9)
        logs = np.empty((n_pairs, len(stakes)))
        for place, stake in enumerate(stakes):
            logs[:, place] = np.log1p(np.maximum(np.minimum(stake, MOST_AT_STAKE / room) * gains, -MOST_AT_STAKE)).sum(
                axis=1
            )
        left = self._sums[first + 1 : first + n_steps + 1]
        logs[(after + self.n * margin > left).any(axis=1)] = np.inf
        return logs


def log_mean(logs: FloatArray) -> FloatArray:
    """The logarithm of the mean capital of several bets, `(pairs, bets)` to `(pairs,)`."""
    found: FloatArray = scipy.special.logsumexp(logs, axis=-1) - np.log(logs.shape[-1])
    return found
