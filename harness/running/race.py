"""The `race` verb: the best strategy of a grid at a share of the grid's cost."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from rich.console import Console

from harness.analysis.race_result import HeldOut, Spent, claim, held_out
from harness.analysis.race_rules import Rules, round_ends
from harness.analysis.racing import Race
from harness.analysis.table import FloatArray, cluster_codes
from harness.config.schema import RunConfig
from harness.core.errors import ConfigError
from harness.core.hashing import content_hash
from harness.planning.lengths import measure
from harness.planning.preparation import Prepared
from harness.planning.race_order import Cuts, RaceOrder, cut, race_order
from harness.planning.units import Plan, make_cells, make_plan
from harness.reporting.console import error_console
from harness.reporting.race import RaceBoard
from harness.results.races import RaceLog
from harness.results.store import RunStore
from harness.running import driver
from harness.running.course import Course
from harness.running.race_schedule import Field, RaceSchedule
from harness.running.race_scores import RaceScores, find_strategy, labelled, metric_place, strategies_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RaceResult:
    """A race that is over."""

    run_dir: str
    winner: str
    baseline: str | None
    claim: str
    """What holds with the confidence asked for, in one sentence."""
    held_out: HeldOut | None
    spent: Spent
    failed_share: float = 0.0
    """Records that failed, as a share of all in the run directory."""


def race(config: RunConfig, fresh: bool = False, console: Console | None = None) -> RaceResult:
    """Race the strategies of a grid, or go on with a race, in the grid's run directory.

    Args:
        config: from `harness.config.loading.load_config`.
        fresh: move an existing run directory aside and start anew.
        console: where progress is drawn; standard error by default.

    Raises:
        UserError: what `harness.running.driver.run` refuses; fewer than two strategies; records that the race has
            read and that have changed since.
        harness.core.errors.Interrupted: on SIGINT or SIGTERM; committed work stays.
    """
    if config.references or config.finetune.sizes:
        raise ConfigError(
            "a race drops prompts early, and references or learning curves beside it would be left out; drop "
            "references and finetune.sizes, or compare them with harness run"
        )
    way = _Race(config, console or error_console())
    course = Course(way.check, way.plan_of, keep_failed=True, board=way, summary=way.summary)
    done = driver.run(config, fresh, way.console, schedule_of=way.schedule_of, course=course)
    assert way.ended is not None
    return replace(way.ended, failed_share=done.failed_share)


@dataclass
class _Race:
    """A race on its way: what is known once the run is prepared."""

    config: RunConfig
    console: Console
    board: RaceBoard | None = None
    order: RaceOrder = field(init=False)
    cuts: Cuts = field(init=False)
    schedule: RaceSchedule = field(init=False)
    metric: int | None = None
    baseline: int | None = None
    tokens_of_grid: int = 0
    ended: RaceResult | None = None

    def check(self, prepared: Prepared) -> None:
        """Refuse what cannot race."""
        settings = self.config.race
        self.order = race_order(prepared.data.samples, settings)
        self.metric = metric_place(settings, tuple(prepared.task.answer_metrics))
        labels = list(labelled(make_cells(prepared), settings))
        self.baseline = None if settings.baseline is None else find_strategy(labels, settings.baseline)

    def plan_of(self, prepared: Prepared, shard_size: int) -> Plan:
        """Shards are pieces of rounds, so that they depend on no decision."""
        self.order = race_order(prepared.data.samples, self.config.race)
        self.cuts = cut(self.order, round_ends(len(self.order.steps)), shard_size)
        tokens = sum(budget.tokens_unique for budget in measure(prepared, shard_size))
        self.tokens_of_grid = round(tokens * len(self.order.samples) / len(prepared.data.samples))
        return make_plan(prepared, shard_size, self.cuts.samples)

    def schedule_of(self, plan: Plan) -> RaceSchedule:
        """A schedule that knows what is committed."""
        settings, store = self.config.race, RunStore(self.config.run_dir)
        strategies = strategies_of(plan, settings)
        rules = Rules(settings.epsilon, settings.confidence)
        labels = [strategy.label for strategy in strategies]
        identity = {
            **asdict(rules),
            "order": self.order.hash,
            "strategies": [list(strategy.keys) for strategy in strategies],
            "metric": self.metric,
        }
        entry = {
            "key": content_hash(identity),
            "settings": asdict(settings),
            "strategies": labels,
            "n_samples": len(self.order.samples),
            "n_steps": len(self.order.steps),
            "n_held_out": len(self.order.holdout),
        }
        self.board = RaceBoard(self.console, labels, self.tokens_of_grid)
        self.schedule = RaceSchedule(
            Race(len(strategies), self.order.sizes, rules),
            Field(plan, self.cuts, strategies, self.baseline),
            RaceScores(self.order, plan, strategies, self.metric),
            store,
            RaceLog(store, entry),
            self._round_over,
        )
        return self.schedule

    def __rich__(self) -> RaceBoard | str:
        """The board, once there is one."""
        return self.board or ""

    def _round_over(self, schedule: RaceSchedule) -> None:
        assert self.board is not None
        self.board.round_over(schedule.race, schedule.tokens)

    def summary(self) -> dict[str, Any]:
        """Judge the winner, and keep how the race ended; what a tracker is told of it."""
        self.ended = ended = self._result()
        facts: dict[str, Any] = {"winner": ended.winner, "claim": ended.claim}
        if ended.held_out is not None:
            winner = ended.held_out.winner
            facts |= {"held_out": winner.value, "held_out_low": winner.low, "held_out_high": winner.high}
        facts["share_of_records"] = ended.spent.records / max(1, ended.spent.records_of_grid)
        return {f"race/{name}": value for name, value in facts.items()}

    def _result(self) -> RaceResult:
        schedule, store = self.schedule, RunStore(self.config.run_dir)
        found, scores = schedule.race, schedule.scores
        assert found.winner is not None
        scores.read(store, store.part_ids())
        labels = [strategy.label for strategy in schedule.strategies]
        n_samples = len(self.order.samples)
        judged = self._judge(scores, found.winner)
        n_cells = sum(len(strategy.keys) for strategy in schedule.strategies)
        ends = np.concatenate([[0], np.cumsum(self.order.sizes)])
        raced = sum(
            int(ends[found.scored[arm]]) * len(strategy.keys) for arm, strategy in enumerate(schedule.strategies)
        )
        spent = Spent(raced, n_samples * n_cells, schedule.tokens, self.tokens_of_grid)
        words = claim(found, labels, n_samples)
        baseline = None if self.baseline is None else labels[self.baseline]
        n_failed = scores.n_failed(found.winner)
        if n_failed:
            words += f" {n_failed:,} samples failed under it; each counted as wrong there and as right elsewhere."
        schedule.decisions.finish(
            {
                "ending": str(found.ending),
                "winner": labels[found.winner],
                "baseline": baseline,
                "claim": words,
                "held_out": None if judged is None else asdict(judged),
                "spent": asdict(spent),
                "scored": found.scored.tolist(),
            }
        )
        return RaceResult(self.config.run_dir, labels[found.winner], baseline, words, judged, spent)

    def _judge(self, scores: RaceScores, winner: int) -> HeldOut | None:
        held = self.order.holdout
        clusters = cluster_codes([s.id for s in held], {s.id: s.cluster for s in held})
        other: FloatArray | None = None
        if self.baseline is not None and self.baseline != winner:
            other = scores.held_out(self.baseline)
        return held_out(scores.held_out(winner), other, clusters)
