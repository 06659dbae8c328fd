"""What shows that no other strategy beats a candidate by more than a margin, at any time."""

from __future__ import annotations

import numpy as np

from harness.analysis.martingales import Steps, log_mean
from harness.analysis.race_rules import Rules
from harness.analysis.table import BoolArray, FloatArray, IntArray

REST_STAKES = np.array([0.03, 0.06, 0.12, 0.25, 0.5, 0.9])
ALL_SHARE = 0.7
"""Of a certificate's capital at first: on bets over all samples. The rest bets since the candidate was chosen."""
LEVELS = (1, 1.5, 2, 3, 5, 8, 12, 20, 30, 50, 80)
"""Multiples of epsilon that are tried for the smallest one that is certified so far."""


class Certificates:
    """What is shown of all other strategies against one candidate, on the samples that both have.

    Two bets share the allowance for error. The one over all samples allows for every candidate that there could be;
    the one since the candidate was chosen allows for those that were chosen, the first more than the later ones.
    What all bets of all candidates against the best have won together is at least `1 / rest_error` with probability
    at most `rest_error` at any time, if the best is better than each by more than the margin (Ville 1939). Capital
    grows with the margin, so that one such event makes the certificates of all margins true at once.

    Attributes:
        given: (strategies,) once enough was shown with the margin epsilon; it is not taken back.
    """

    def __init__(self, steps: Steps, candidate: int, n_strategies: int, rules: Rules, chosen: int, rank: int) -> None:
        self._steps, self._candidate, self._rules = steps, candidate, rules
        self._chosen = chosen
        """Steps after which it became the candidate."""
        self._shares = np.log([ALL_SHARE / (n_strategies - 1), (1 - ALL_SHARE) / (rank * (rank + 1))])
        """Of the two bets in all capital at first, as logarithms; it is the `rank`-th candidate, from 1 on."""
        self._until: IntArray = np.zeros(n_strategies, dtype=np.int64)
        self._sums: FloatArray = np.zeros(n_strategies)
        self._capital: FloatArray = np.zeros((2, n_strategies, len(REST_STAKES)))
        self._level: IntArray = np.full(n_strategies, len(LEVELS))
        """Place in `LEVELS` of the smallest margin shown; beyond the last where none is."""
        self.given: BoolArray = np.zeros(n_strategies, dtype=bool)

    def extend(self, arms: IntArray, scored: IntArray, low: FloatArray, high: FloatArray) -> None:
        """Take in what strategies were scored on since; arguments as of `Race.advance`."""
        spans = np.stack([self._until[arms], scored[arms]], axis=1)
        for start, end in np.unique(spans, axis=0):
            some = arms[(spans == (start, end)).all(axis=1)]
            if start < end:
                differences = low[self._candidate, start:end] - high[some, start:end]
                won = self._steps.log_capital(
                    differences, self._sums[some], int(start), self._rules.epsilon, REST_STAKES
                )
                self._capital[0, some] += won
                if start >= self._chosen:
                    self._capital[1, some] += won
                self._sums[some] += differences.sum(axis=1)
                self._until[some] = end
        self.given[arms] |= self._is_enough(self._capital[:, arms])

    def _is_enough(self, capital: FloatArray) -> BoolArray:
        """Whether the two bets, (2, strategies, stakes), have won enough together."""
        together = np.logaddexp(*(log_mean(capital) + self._shares[:, None]))
        found: BoolArray = together >= -np.log(self._rules.rest_error)
        return found

    def smallest(self, arms: IntArray, scored: IntArray, low: FloatArray, high: FloatArray) -> float | None:
        """The smallest of the tried margins that is shown for all of these strategies; None where none is."""
        self._level[self.given] = 0
        # The worst first: what fails at its next level decides, and nothing more need be tried.
        level = int(self._level[arms].max(initial=0))
        while level:
            worst = arms[self._level[arms] == level]
            for end in np.unique(scored[worst]):
                some = worst[scored[worst] == end]
                shown = self._is_enough(self._anew(some, int(end), self._rules.epsilon * LEVELS[level - 1], low, high))
                self._level[some[shown]] = level - 1
            if (self._level[worst] == level).any():
                break
            level -= 1
        return self._rules.epsilon * LEVELS[level] if level < len(LEVELS) else None

    def _anew(self, arms: IntArray, end: int, margin: float, low: FloatArray, high: FloatArray) -> FloatArray:
        """(2, strategies, stakes) capital of both bets with another margin."""
        differences = low[self._candidate, :end] - high[arms, :end]
        chosen = min(self._chosen, end)
        early, late = (
            self._steps.log_capital(differences[:, start:stop], before, start, margin, REST_STAKES)
            for start, stop, before in (
                (0, chosen, np.zeros(len(arms))),
                (chosen, end, differences[:, :chosen].sum(axis=1)),
            )
        )
        return np.stack([early + late, late])
