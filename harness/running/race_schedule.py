"""The schedule of a race: units of the strategies that are in it, round by round, then those held out.

Knows the plan, scores and decisions; refuses to know replicas and how decisions are shown. A run that is resumed
asks a new schedule, which comes to the same decisions by the same records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np

from harness.analysis.racing import Race
from harness.core.errors import RunDirError
from harness.planning.race_order import Cuts
from harness.planning.units import Plan, WorkUnit
from harness.results.races import RaceLog
from harness.results.store import RunStore
from harness.running.messages import UnitReport
from harness.running.race_scores import RaceScores, Strategy

Pair = tuple[str, int]
"""What the records of a cell depend on, and a shard."""


@dataclass(frozen=True)
class Field:
    """Who races over what.

    Attributes:
        plan: of the grid, its shards those of `cuts`.
        cuts: of the race.
        strategies: that race.
        baseline: the strategy that is scored on the samples held out besides the winner.
    """

    plan: Plan
    cuts: Cuts
    strategies: Sequence[Strategy]
    baseline: int | None = None


class RaceSchedule:
    """Gives the units that the next decision needs, and those of the likely next round while it waits for them.

    Args:
        race: that decides.
        field: who races over what.
        scores: what is committed.
        store: of the run directory.
        decisions: where they are kept.
        on_round: told after every round.

    Attributes:
        tokens: that the model computed for what was finished of the race's samples, committed before or not.
    """

    def __init__(
        self,
        race: Race,
        field: Field,
        scores: RaceScores,
        store: RunStore,
        decisions: RaceLog,
        on_round: Callable[[RaceSchedule], None] = lambda schedule: None,
    ) -> None:
        plan = field.plan
        self.race, self.strategies, self.scores, self.decisions = race, field.strategies, scores, decisions
        self._plan, self._cuts, self._store = plan, field.cuts, store
        self._baseline, self._on_round = field.baseline, on_round
        self._base: dict[Pair, WorkUnit] = {}
        for unit in plan.units:
            for key in unit.keys:
                self._base.setdefault((key, unit.shard), unit)
        self._place = {unit.id: place for place, unit in enumerate(plan.units)}
        self._queue: deque[WorkUnit] = deque()
        self._given: set[Pair] = set()
        self._done: set[Pair] = set()
        self._needed: set[Pair] = set()
        self._model = plan.units[0].model
        self.tokens = 0.0
        scores.read(store, store.part_ids())
        self._go_on()

    def next(self, n: int) -> Sequence[WorkUnit]:
        """See `Schedule.next`."""
        found = [self._queue.popleft() for _ in range(min(n, len(self._queue)))]
        if not found and self.race.ending is None:
            found = list(islice(self._likely(), n))
        for unit in found:
            self._given |= _pairs(unit)
            self._model = unit.model
        return found

    def finished(self, unit: WorkUnit, report: UnitReport) -> None:
        """See `Schedule.finished`."""
        n_records = len(self._plan.shards[unit.shard].samples) * len(unit.ks)
        if unit.shard not in self._cuts.holdout:
            # The parts of a finished grid hold more than the unit.
            share = n_records / max(n_records, report.statistics.n_records)
            self.tokens += share * report.statistics.tokens_computed
        self._done |= _pairs(unit)
        if self._needed <= self._done:
            self._go_on()

    @property
    def is_exhausted(self) -> bool:
        """See `Schedule.is_exhausted`."""
        return self.race.ending is not None and not self._queue

    @property
    def to_come(self) -> Sequence[WorkUnit] | None:
        """See `Schedule.to_come`."""
        return None if self.race.ending is None else list(self._queue)

    def _go_on(self) -> None:
        """Decide as long as all that a decision needs is done; then let units of what is needed come."""
        while self.race.ending is None:
            if self._needed and self._needed <= self._done:
                self._decide()
            if self.race.ending is None:
                self._needed = {pair for arm in range(len(self.strategies)) for pair in self._wanted(arm)}
                if not self._needed <= self._done:
                    self._let_come(self._needed - self._given)
                    return
        judged = {self.race.winner, self._baseline} - {None}
        keys = {key for arm in judged if arm is not None for key in self.strategies[arm].keys}
        self._needed = {(key, shard) for key in keys for shard in self._cuts.holdout}
        self._let_come(self._needed - self._given)

    def _decide(self) -> None:
        self.scores.read(self._store, self._store.part_ids())
        low, high = self.scores.bounds(self.race.end_of_round)
        steps = np.arange(low.shape[1])
        wanted = (steps >= self.race.scored[:, None]) & (steps < self.race.goal[:, None])
        if np.isnan(low[wanted]).any():
            raise RunDirError(
                f"'{self._store.run_dir}' lacks records of units that are done: parts were lost or changed while it "
                "ran; run the same command again, it computes what is missing"
            )
        before = len(self.race.rounds)
        self.race.advance(low, high)
        if len(self.race.rounds) > before:
            found = asdict(self.race.rounds[-1])
            self.decisions.decided({k: list(v) if isinstance(v, tuple) else v for k, v in found.items()})
            self._on_round(self)

    def _wanted(self, arm: int) -> Iterator[Pair]:
        """What an arm must be scored on before the race can go on."""
        scored, goal = self.race.scored[arm], self.race.goal[arm]
        for end, shards in zip(self.race.ends, self._cuts.rounds, strict=True):
            if scored < end <= goal:
                yield from ((key, shard) for key in self.strategies[arm].keys for shard in shards)

    def _let_come(self, pairs: set[Pair]) -> None:
        """Units of these, all K of one trunk together; those of the model that is loaded first."""
        units = self._units(pairs)
        units.sort(key=lambda unit: (unit.model != self._model, self._place[self._base[unit.keys[0], unit.shard].id]))
        self._queue.extend(units)

    def _units(self, pairs: Iterable[Pair]) -> list[WorkUnit]:
        groups: dict[str, tuple[WorkUnit, set[str]]] = {}
        for key, shard in pairs:
            whole = self._base[key, shard]
            groups.setdefault(whole.id, (whole, set()))[1].add(key)
        return [whole.narrowed(keys, self._plan.shards[whole.shard].hash) for whole, keys in groups.values()]

    def _likely(self) -> Iterator[WorkUnit]:
        """Units of the next round, if nothing is dropped: of the best first, and of the model that is loaded."""
        place = len(self.race.rounds) + 1
        shards = self._cuts.rounds[place] if place < len(self._cuts.rounds) else ()
        racing = np.flatnonzero(self.race.alive & ~self.race.resting).tolist()
        order = sorted(racing, key=lambda arm: (-self.race.low_sums[arm], arm))
        keys = dict.fromkeys(key for arm in order for key in self.strategies[arm].keys)
        given = set(self._given)
        for best in keys:
            for shard in shards:
                whole = self._base[best, shard]
                if whole.model == self._model and (best, shard) not in given:
                    pairs = {(key, shard) for key in whole.keys if key in keys} - given
                    given |= pairs
                    yield from self._units(pairs)


def _pairs(unit: WorkUnit) -> set[Pair]:
    return {(key, unit.shard) for key in unit.keys}
