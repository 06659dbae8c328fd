"""Figures as people read them. Rounds here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NOTHING = "–"
MINUS = "−"


@dataclass(frozen=True)
class Scale:
    """How values of one metric are written."""

    metric: str
    percent: bool
    """Shares are written in percent, differences in percentage points."""

    @property
    def name(self) -> str:
        """The metric in words."""
        return self.metric.replace("_", " ")

    @property
    def factor(self) -> float:
        """From stored values to those on axes."""
        return 100.0 if self.percent else 1.0

    @property
    def unit(self) -> str:
        """After values on axes."""
        return "%" if self.percent else ""

    @property
    def points(self) -> str:
        """After differences."""
        return " points" if self.percent else ""

    def value(self, value: float) -> str:
        """Such as `82.4%`."""
        if not math.isfinite(value):
            return NOTHING
        return f"{100 * value:.1f}%" if self.percent else f"{value:.4g}"

    def tick(self, value: float) -> str:
        """A value without needless decimals, for an axis."""
        return f"{100 * value:.3g}%" if self.percent else f"{value:.4g}"

    def interval(self, low: float, high: float) -> str:
        """Such as `77.7% to 86.2%`."""
        return f"{self.value(low)} to {self.value(high)}" if math.isfinite(low) else NOTHING

    def difference(self, value: float) -> str:
        """With its sign, such as `+1.9`."""
        if not math.isfinite(value):
            return NOTHING
        text = f"{100 * value:+.1f}" if self.percent else f"{value:+.4g}"
        return text.replace("-", MINUS)

    def change(self, low: float, high: float) -> str:
        """The interval of a difference."""
        return f"{self.difference(low)} to {self.difference(high)}" if math.isfinite(low) else NOTHING


def scale_of(metric: str, values: Sequence[float]) -> Scale:
    """Percent for values within 0..1, plain numbers for others."""
    known = [value for value in values if math.isfinite(value)]
    return Scale(metric, all(0 <= value <= 1 for value in known))


def share(value: float) -> str:
    """A share in percent."""
    return Scale("", True).value(value)


def count(value: float) -> str:
    """A whole number with separators of thousands."""
    return f"{value:,.0f}" if math.isfinite(value) else NOTHING


def rounded_count(value: float) -> str:
    """A number of tokens for a glance: `812`, `41.3 k`, `2.51 M`."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return count(value)


def decimals(value: float, places: int) -> str:
    """A plain number."""
    return f"{value:.{places}f}".replace("-", MINUS) if math.isfinite(value) else NOTHING


def probability(value: float) -> str:
    """A p-value."""
    if not math.isfinite(value):
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: float | None) -> str:
    """Such as `2 h 04 min`, `2 min 44 s` or `9 s`."""
    if seconds is None:
        return NOTHING
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def plural(number: int, one: str, many: str = "") -> str:
    """`1 cell`, `25 cells`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def last_part(path: str) -> str:
    """A model or run by the last part of its path."""
    return str(path).rstrip("/").rsplit("/", 1)[-1]


def titled(name: str, title: str) -> str:
    """A name with the run or model that it is about, where there are several."""
    return f"{name}, {title}" if title else name
