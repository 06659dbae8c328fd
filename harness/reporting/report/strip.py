"""The strip of the first screen: all strategies on one axis, and how sure the best is.

Knows places on an axis; refuses to know what the screen says beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.reporting.report.gathering import ReportData
from harness.reporting.report.wording import Scale

STEPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25)
"""Distances between the ticks of the strip."""


@dataclass(frozen=True)
class Bar:
    """One line of the strip: a point with its interval, in percent of the strip's width."""

    title: str
    text: str
    low: float
    point: float
    high: float
    kind: str


@dataclass(frozen=True)
class Tick:
    """A place on the strip's axis or one strategy on it."""

    place: float
    text: str
    mark: str = ""


def strip(
    data: ReportData, scale: Scale, chance: float | None
) -> tuple[tuple[Bar, ...], tuple[Tick, ...], tuple[Tick, ...]]:
    """The strip's bars, strategies and axis; empty when nothing was scored."""
    frame = data.strategies[np.isfinite(data.strategies["mean"].to_numpy(dtype=float))]
    if frame.empty:
        return (), (), ()
    best = frame[frame["is_best"]].iloc[0]
    rows = [("Best, as scored", best["low"], best["mean"], best["high"], "best")]
    if data.comparison is not None:
        found = data.comparison.selection.expected
        rows.insert(0, ("Expected of the best", found.low, found.value, found.high, "expected"))
    ends = [float(v) for _, *values, _ in rows for v in values if math.isfinite(float(v))] + frame["mean"].tolist()
    if chance is not None:
        ends.append(chance)
    least, most, step = _limits(ends)

    def place(value: float) -> float:
        return round(min(max(100 * (value - least) / (most - least), 0), 100), 3)

    bars = tuple(
        Bar(title, f"{scale.value(mean)}, {scale.interval(low, high)}", place(low), place(mean), place(high), kind)
        for title, low, mean, high, kind in rows
        if math.isfinite(low)
    )
    marks = np.where(frame["is_best"], "best", np.where(frame["may_be_best"], "like", "other")).tolist()
    points = zip(frame["mean"].tolist(), frame["label"].tolist(), marks, strict=True)
    strategies = [Tick(place(value), f"{label}: {scale.value(value)}", mark) for value, label, mark in points]
    if chance is not None:
        strategies.append(Tick(place(chance), f"Always the most frequent class: {scale.value(chance)}", "chance"))
    n_steps = round((most - least) / step)
    axis = tuple(Tick(place(least + i * step), scale.tick(least + i * step)) for i in range(n_steps + 1))
    # The best is drawn last, on top of its ties.
    return bars, tuple(sorted(strategies, key=lambda tick: tick.mark == "best")), axis


def _limits(values: Sequence[float]) -> tuple[float, float, float]:
    """Ends of an axis around the values, and the distance of its ticks: at most six of them."""
    low, high = min(values), max(values)
    if high - low < 0.02:
        low, high = low - 0.01, high + 0.01
    magnitude = 1.0 if high - low <= 1.2 else 10 ** math.ceil(math.log10(high - low))
    step = next((s * magnitude for s in STEPS if (high - low) / (s * magnitude) <= 5), magnitude)
    return math.floor(low / step) * step, math.ceil(high / step) * step, step
