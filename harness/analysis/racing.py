"""The race: which strategies are out, which wait, and when the best of the grid is known well enough.

A pure function of the scores of complete rounds; refuses to know units, files and names. See docs/racing.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.analysis.certificates import Certificates
from harness.analysis.martingales import Steps, log_mean
from harness.analysis.race_rules import Ending, Round, Rules, round_ends
from harness.analysis.table import BoolArray, FloatArray, IntArray

RIVALS = {1: 0.6, 4: 0.4}
"""With how many of the best of the others each strategy is compared, on average, to the share of the capital that bets
on it at first. Several waver less than one."""
DROP_STAKES = np.array([0.1, 0.2, 0.4, 0.8])
PATIENCE = 0.5
"""A candidate stays until it trails the leader by more than this part of epsilon."""


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
        shares = np.repeat(list(RIVALS.values()), len(DROP_STAKES))
        self._capital: FloatArray = np.tile(np.log(shares * len(RIVALS)), (n_strategies, 1))
        self._order: IntArray = np.zeros(0, dtype=np.int64)
        """Strategies that are up to date, the best first."""
        self._certificates: dict[int, Certificates] = {}
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
            self._certificates[candidate] = Certificates(self.steps, candidate, len(self.alive), self.rules, end, rank)
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
