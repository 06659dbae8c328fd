"""What a race that is over found: its claim in words, the winner on the samples held out, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.analysis.intervals import Estimate, mean_interval, paired_interval
from harness.analysis.race_rules import Ending, Rules
from harness.analysis.racing import Race
from harness.analysis.table import FloatArray, IntArray


@dataclass(frozen=True)
class HeldOut:
    """Figures on samples that were set aside before the race."""

    winner: Estimate
    baseline: Estimate | None
    difference: Estimate | None
    """Winner minus baseline, on the samples that both have."""


@dataclass(frozen=True)
class Spent:
    """What a race took of what the full grid takes on the race's samples; those held out are on neither side."""

    records: int
    records_of_grid: int
    tokens: float
    tokens_of_grid: float

    @property
    def in_words(self) -> str:
        """One sentence."""
        return (
            f"spent {self.records:,} of the grid's {self.records_of_grid:,} records "
            f"({self.records / max(1, self.records_of_grid):.1%}) and {self.tokens:,.0f} of its "
            f"{self.tokens_of_grid:,.0f} tokens ({self.tokens / max(1.0, self.tokens_of_grid):.1%})"
        )


def held_out(winner: FloatArray, baseline: FloatArray | None, clusters: IntArray | None) -> HeldOut | None:
    """Figures of the winner and a baseline.

    Args:
        winner: (samples,) scores, NaN where it failed.
        baseline: the same of another strategy.
        clusters: (samples,) codes.
    """
    if not np.isfinite(winner).any():
        return None
    if baseline is None:
        return HeldOut(mean_interval(winner, clusters), None, None)
    both = np.isfinite(winner) & np.isfinite(baseline)
    codes = None if clusters is None else clusters[both]
    difference = paired_interval(winner[both] - baseline[both], codes) if both.sum() > 1 else None
    return HeldOut(mean_interval(winner, clusters), mean_interval(baseline, clusters), difference)


def points(share: float) -> str:
    """A difference of scores in points of a hundred, as people read it."""
    number = f"{100 * share:.2f}".rstrip("0").rstrip(".")
    return f"{number} point" if number == "1" else f"{number} points"


def claim(race: Race, labels: list[str], n_samples: int) -> str:
    """What a race that is over may say, whenever it was looked at or stopped."""
    assert race.winner is not None
    winner, rules = labels[race.winner], race.rules
    sure = confidence_in_words(rules)
    ever = "whenever the race was looked at or stopped"
    if race.ending is Ending.ONE_LEFT:
        return (
            f"With {sure} confidence no strategy of this grid scores more than {winner} on these {n_samples:,} "
            f"samples, {ever}."
        )
    if race.ending is Ending.CERTIFIED:
        return (
            f"With {sure} confidence no strategy of this grid scores more than {points(rules.epsilon)} above {winner} "
            f"on these {n_samples:,} samples, {ever}."
        )
    return (
        f"{winner} is the full grid's winner on these {n_samples:,} samples, unless that was dropped "
        f"(at most {100 * rules.drop_error:g}% of races): all samples are used."
    )


def confidence_in_words(rules: Rules) -> str:
    """The confidence as a percentage."""
    return f"{100 * rules.confidence:g}%"
