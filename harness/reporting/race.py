"""How a race shows: a line after every round in a log, a board on a terminal, and at the end one sentence."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from harness.analysis.intervals import Estimate
from harness.analysis.race_result import HeldOut, Spent, points
from harness.analysis.racing import Race
from harness.core.escaping import one_line, visible
from harness.reporting.console import say
from harness.reporting.progress import duration
from harness.reporting.terminal import new_table

log = logging.getLogger(__name__)
SHOWN = 8
"""Strategies that the board names."""
LABEL = 48


class RaceBoard:
    """What is known of a race while it goes on.

    Args:
        console: where the board is drawn, when it is a terminal.
        labels: of the strategies.
        tokens_of_grid: that the full grid takes.
    """

    def __init__(self, console: Console, labels: Sequence[str], tokens_of_grid: float) -> None:
        self._console, self._labels, self._tokens_of_grid = console, labels, tokens_of_grid
        self._race: Race | None = None
        self._began = time.monotonic()
        self._first: int | None = None
        self._status = "the first round is under way"
        self._out: dict[int, int] = {}
        """Strategy to the steps after which it was dropped."""

    def round_over(self, race: Race, tokens: float) -> None:
        """Take in what was decided, and log it."""
        self._race, last = race, race.rounds[-1]
        self._out |= dict.fromkeys(last.dropped, last.step)
        done = int(race.scored.sum())
        self._first = done if self._first is None else self._first
        racing = race.alive & ~race.resting
        left_at_most = int((race.steps.n - race.scored[racing]).sum())
        pace = (done - self._first) / max(1e-9, time.monotonic() - self._began)
        self._status = "; ".join(
            [
                f"after {last.step:,} of {race.steps.n:,} steps {one_line(self._labels[last.candidate], LABEL)} leads",
                f"{int((~race.alive).sum())} of {len(self._labels)} out, {int(race.resting.sum())} resting",
                f"certified within {points(last.epsilon)}" if last.epsilon is not None else "nothing certified yet",
                f"{done / (race.steps.n * len(self._labels)):.1%} of the grid's records, "
                f"{tokens / max(1.0, self._tokens_of_grid):.1%} of its tokens",
                *([f"at most {duration(left_at_most / pace)} left"] if pace > 0 and race.ending is None else []),
            ]
        )
        log.info("%s", self._status)

    def __rich__(self) -> RenderableType:
        """The board: who leads, who rests, who is out and why."""
        if self._race is None:
            return Text(self._status)
        race = self._race
        table = new_table(self._console, self._status)
        for name in ("strategy", "score", "scored on", "state"):
            table.add_column(name, justify="left" if name in ("strategy", "state") else "right", no_wrap=True)
        means = race.low_sums / race.scored.clip(min=1)
        order = sorted(range(len(self._labels)), key=lambda arm: (not race.alive[arm], -means[arm]))
        for arm in order[:SHOWN]:
            table.add_row(
                one_line(self._labels[arm], LABEL), f"{means[arm]:.4f}", f"{race.scored[arm]:,}", self._state(race, arm)
            )
        if order[SHOWN:]:
            table.add_row(f"and {len(order) - SHOWN} more", "", "", "")
        return table

    def _state(self, race: Race, arm: int) -> str:
        if arm == race.winner:
            return "candidate"
        if not race.alive[arm]:
            return f"out after {self._out[arm]:,}: others beat it"
        if race.resting[arm]:
            return f"rests: not more than {points(race.rules.epsilon)} above the candidate"
        return "races"


def write_result(console: Console, claim: str, held_out: HeldOut | None, baseline: str | None, spent: Spent) -> None:
    """Print how a race ended.

    Args:
        console: standard output.
        claim: in one sentence.
        held_out: the winner, and the baseline, on the samples set aside.
        baseline: its label.
        spent: of the full grid.
    """
    say(console, claim)
    for line in held_out_lines(held_out, baseline):
        say(console, line)
    say(console, visible(spent.in_words))


def held_out_lines(held_out: HeldOut | None, baseline: str | None) -> list[str]:
    """The figures on the samples set aside, in sentences."""
    if held_out is None:
        return ["no samples were held out (race.holdout), so that the winner has no figure of its own"]
    winner = held_out.winner
    lines = [f"on {winner.n:,} samples held out it scores {_interval(winner)}"]
    if held_out.baseline is not None:
        lines.append(f"{baseline} scores {_interval(held_out.baseline)} there")
    if held_out.difference is not None:
        lines.append(f"winner minus baseline there: {_interval(held_out.difference)}")
    return lines


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}] (95%, {estimate.method})"
