"""The race: which strategies are out, which wait, and when the best of the grid is known well enough.

A pure function of the scores of complete rounds; refuses to know units, files and names. See docs/racing.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from harness.analysis.martingales import Steps, log_mean
from harness.analysis.table import BoolArray, FloatArray, IntArray

RIVALS = (1, 4, 16)
"""Each strategy is compared with so many of the best of the others, on average: several waver less than one."""
DROP_STAKES = np.array([0.1, 0.2, 0.4, 0.8])
REST_STAKES = np.array([0.03, 0.06, 0.12, 0.25, 0.5, 0.9])
LEVELS = (1, 1.5, 2, 3, 5, 8, 12, 20, 30, 50, 80)
"""Multiples of epsilon that are tried for the smallest one that is certified so far."""
FIRST_ROUND = 32
GROWTH = 1.2
LEAST_ROUND = 10
PATIENCE = 0.5
"""A candidate stays until it trails the leader by more than this part of epsilon."""


class Ending(StrEnum):
    """Why a race is over."""

    ONE_LEFT = "one left"
    """All other strategies are dropped."""
    CERTIFIED = "certified"
    """No strategy that is left beats the candidate by more than epsilon."""
    EXHAUSTED = "exhausted"
    """All samples are used."""


@dataclass(frozen=True)
class Rules:
    """What a race claims, and how sure."""

    epsilon: float = 0.01
    """In units of the score; 0 asks for the full grid's winner itself."""
    confidence: float = 0.95

    @property
    def drop_error(self) -> float:
        """The probability that the best of the grid is ever dropped is at most this."""
        return (1 - self.confidence) * (0.5 if self.epsilon else 1.0)

    @property
    def rest_error(self) -> float:
        """The probability that a certificate is ever false is at most this; 0 where none is given."""
        return (1 - self.confidence) / 2 if self.epsilon else 0.0


@dataclass(frozen=True)
class Round:
    """What was decided after a round."""

    step: int
    """Steps that the strategies in the race have been scored on."""
    leader: int
    candidate: int
    dropped: tuple[int, ...]
    """In this round."""
    resting: tuple[int, ...]
    """After it."""
    caught_up: tuple[int, ...]
    """Strategies that were scored in this round on what they had missed."""
    epsilon: float | None
    """The smallest one that is certified for the candidate so far."""


def round_ends(n_steps: int) -> list[int]:
    """Steps after which decisions are taken: 32, then a fifth more each time."""
    ends, end = [], 0
    while end < n_steps:
        size = FIRST_ROUND if not end else max(LEAST_ROUND, int((GROWTH - 1) * end))
        end = min(n_steps, end + size)
        ends.append(end)
    return ends


class Race:
    """Decides round by round.

    Args:
        n_strategies: in the grid, two or more.
        sizes: (steps,) samples of each step in the race's order, see `Steps`.
        rules: what is to be claimed.

    Attributes:
        ends: steps after which rounds end.
        scored: (strategies,) steps that each has been scored on and that decisions rest on.
        goal: (strategies,) steps that each must be scored on before `advance` can go on.
        alive: (strategies,) not dropped.
        resting: (strategies,) shown not to beat the candidate by more than epsilon.
        rounds: what was decided so far.
        ending: why the race is over; None while it is not.
        winner: of the race once it is over, the candidate until then.
    """

    def __init__(self, n_strategies: int, sizes: NDArray[np.int64], rules: Rules) -> None:
        self.rules, self.steps = rules, Steps(sizes)
        self.ends = round_ends(self.steps.n)
        self.scored: IntArray = np.zeros(n_strategies, dtype=np.int64)
        self.alive: BoolArray = np.ones(n_strategies, dtype=bool)
        self.resting: BoolArray = np.zeros(n_strategies, dtype=bool)
        self.goal: IntArray = np.full(n_strategies, self.ends[0])
        self.rounds: list[Round] = []
        self.ending: Ending | None = None
        self.winner: int | None = None
        self.low_sums: FloatArray = np.zeros(n_strategies)
        """(strategies,) sums of the scores, failed samples as 0, in the units of `Steps`."""
        self._high_sums: FloatArray = np.zeros(n_strategies)
        self._capital: FloatArray = np.zeros((n_strategies, len(RIVALS) * len(DROP_STAKES)))
        self._order: IntArray = np.zeros(0, dtype=np.int64)
        """Strategies that are up to date, the best first."""
        self._certificates: dict[int, _Certificates] = {}
        self._dropped: tuple[int, ...] = ()
        self._caught_up: list[int] = []
        self._is_catching_up = False

    @property
    def end_of_round(self) -> int:
        """Steps after which the round under way is complete."""
        return self.ends[len(self.rounds)]

    def advance(self, low: FloatArray, high: FloatArray) -> None:
        """Decide, once every strategy is scored up to its goal.

        Args:
            low: (strategies, steps) scores in the units of `Steps`, failed samples counted as 0.
            high: the same, failed samples counted as 1. Each pair is compared in the worst case for what is bet.
        """
        end, late = self.end_of_round, np.flatnonzero(self.goal > self.scored)
        if self._is_catching_up:
            self._caught_up += late.tolist()
        elif self.rounds:
            self._bet(late, low, high, end)
        for start in np.unique(self.scored[late]):
            arms = late[self.scored[late] == start]
            self.low_sums[arms] += low[arms, start:end].sum(axis=1)
            self._high_sums[arms] += high[arms, start:end].sum(axis=1)
        self.scored[late] = end
        if not self._is_catching_up:
            self._drop()
        self._is_catching_up = False
        self._rank(self.alive & (self.scored == end))
        if self.alive.sum() == 1:
            self.resting[:] = False
            self._close(self._leader, Ending.ONE_LEFT, low, high)
        elif self.rules.epsilon:
            self._certify(low, high)
        else:
            self._close(self._leader, Ending.EXHAUSTED if end == self.steps.n else None, low, high)

    def _bet(self, arms: IntArray, low: FloatArray, high: FloatArray, end: int) -> None:
        """That the best of the others after the previous round beat each strategy in the race, on average."""
        start = int(self.scored[arms[0]])
        order = self._order
        places = np.empty(len(self.alive), dtype=np.int64)
        places[order] = np.arange(len(order))
        scores, sums = low[order, start:end], self.low_sums[order]
        for place, wanted in enumerate(RIVALS):
            n_rivals = min(wanted, len(order) - 1)
            # A strategy among the best is compared with one more of them, without itself.
            inside = places[arms] < n_rivals
            rivals, rival_sums = np.empty((len(arms), end - start)), np.empty(len(arms))
            rivals[~inside], rival_sums[~inside] = scores[:n_rivals].sum(axis=0), sums[:n_rivals].sum()
            rivals[inside] = scores[: n_rivals + 1].sum(axis=0) - low[arms[inside], start:end]
            rival_sums[inside] = sums[: n_rivals + 1].sum() - self.low_sums[arms[inside]]
            differences = rivals / n_rivals - high[arms, start:end]
            before = rival_sums / n_rivals - self._high_sums[arms]
            bets = slice(place * len(DROP_STAKES), (place + 1) * len(DROP_STAKES))
            self._capital[arms, bets] += self.steps.log_capital(differences, before, start, 0.0, DROP_STAKES)

    def _drop(self) -> None:
        racing = self.alive & ~self.resting
        out = racing & (log_mean(self._capital) >= -np.log(self.rules.drop_error))
        if out.sum() == self.alive.sum():
            out[np.flatnonzero(out)[np.argmax(self.low_sums[out])]] = False
        self._dropped = tuple(np.flatnonzero(out).tolist())
        self.alive &= ~out

    def _rank(self, among: BoolArray) -> None:
        arms = np.flatnonzero(among)
        self._order = arms[np.argsort(-self.low_sums[arms], kind="stable")]

    @property
    def _leader(self) -> int:
        return int(self._order[0])

    def _certify(self, low: FloatArray, high: FloatArray) -> None:
        """Let those rest that do not beat the candidate by more than epsilon, or bring up to date those that may."""
        end, candidate = self.end_of_round, self.winner
        trail = PATIENCE * self.rules.epsilon * end
        if (
            candidate is None
            or not self.alive[candidate]
            or self.low_sums[self._leader] - self.low_sums[candidate] > trail
        ):
            self.winner = candidate = self._leader
        if candidate not in self._certificates:
            rank = len(self._certificates) + 1
            self._certificates[candidate] = _Certificates(self.steps, candidate, len(self.alive), self.rules, end, rank)
        found = self._certificates[candidate]
        others = self.alive.copy()
        others[candidate] = False
        found.extend(np.flatnonzero(others & ~found.given), self.scored, low, high)
        self.resting = others & found.given
        missing = others & ~found.given
        late = missing & (self.scored < end)
        if late.any():
            self._is_catching_up = True
            self.goal[late] = end
            return
        ending = Ending.EXHAUSTED if end == self.steps.n else None
        self._close(candidate, ending if missing.any() else Ending.CERTIFIED, low, high)

    def _close(self, winner: int, ending: Ending | None, low: FloatArray, high: FloatArray) -> None:
        """End the round, and the race where there is an ending."""
        epsilon = None
        if ending is Ending.ONE_LEFT:
            epsilon = 0.0
        elif winner in self._certificates:
            others = self.alive.copy()
            others[winner] = False
            epsilon = self._certificates[winner].smallest(np.flatnonzero(others), self.scored, low, high)
        self.rounds.append(
            Round(
                self.end_of_round,
                self._leader,
                winner,
                self._dropped,
                tuple(np.flatnonzero(self.resting).tolist()),
                tuple(sorted(self._caught_up)),
                epsilon,
            )
        )
        self._caught_up = []
        if ending is Ending.EXHAUSTED:
            arms = np.flatnonzero(self.alive & (self.scored == self.steps.n))
            winner = int(arms[np.argmax(self.low_sums[arms])])
        self.winner, self.ending = winner, ending
        if ending is None:
            racing = self.alive & ~self.resting
            self._rank(racing)
            self.goal[racing] = self.end_of_round


class _Certificates:
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
        self._shares = -np.log(2.0) - np.log([n_strategies - 1.0, rank * (rank + 1.0)])
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


def replay(low: FloatArray, sizes: NDArray[np.int64], rules: Rules, high: FloatArray | None = None) -> Race:
    """A whole race over scores that are all known.

    Args:
        low: (strategies, steps), as of `Race.advance`.
        sizes: (steps,) samples of each.
        rules: of the race.
        high: None where no sample failed.
    """
    race = Race(len(low), sizes, rules)
    while race.ending is None:
        race.advance(low, low if high is None else high)
    return race
