"""The section on cost: the score of strategies against the tokens of a prompt, and those that no other beats on both.

Knows tokens and prices; refuses to know how scores came about.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.cells import of_prompts
from harness.analysis.pareto import pareto_front
from harness.analysis.table import BoolArray
from harness.reporting.report.blocks import Cell, Chart, Column, Section, Table
from harness.reporting.report.charts import Spec, safe
from harness.reporting.report.gathering import ReportData
from harness.reporting.report.wording import NOTHING, Scale, count, plural

PER_MILLION = 1_000_000
PROMPTS = 1000
"""That a price is given for."""


def cost_sections(data: ReportData, scale: Scale) -> Iterator[Section]:
    """One section where at least two strategies are prompts with a score on the same samples."""
    if data.decided_race is not None:
        return
    frame = of_prompts(data.strategies)
    frame = frame[np.isfinite(frame["mean"].to_numpy(dtype=float))]
    if len(frame) < 2:
        return
    front = pareto_front(frame["tokens"].to_numpy(dtype=float), frame["mean"].to_numpy(dtype=float))
    best = frame[front].sort_values("tokens")
    ends = [f"{row['label']} ({count(row['tokens'])} tokens a prompt, {scale.value(row['mean'])})"
            for row in best.to_dict("records")]  # fmt: skip
    if len(best) == 1:
        lead = f"{ends[0]} is beaten by none of the {plural(len(frame) - 1, 'other')} in score or in tokens{data.draw}."
    else:
        lead = (
            f"What a better score costs: {count(len(best))} of {plural(len(frame), 'strategy', 'strategies')} are "
            f"beaten by no other on both, from {ends[0]} to {ends[-1]}{data.draw}."
        )
    name = f"{scale.name.capitalize()} against tokens of a prompt{data.draw}"
    summary = "Points, and a rising line through those that no other beats on both; the table has them."
    chart = Chart("cost", name, summary, _spec(frame, front, scale), 440, _table(data, best, name, scale))
    notes = [
        "Tokens are those of a whole prompt, as it costs when it is used by itself; the grid paid less, since prompts "
        "share their beginnings.",
        "The line goes through scores as they are: a step that is smaller than its interval may be luck (see Ranking).",
    ]
    yield Section("cost", "Score against cost", "Cost", lead, [chart], notes=notes)


def _spec(frame: pd.DataFrame, front: BoolArray, scale: Scale) -> Spec:
    own, others = frame[front].sort_values("tokens"), frame[~front]

    def points(rows: pd.DataFrame, more: Mapping[str, Any]) -> Spec:
        hover = [
            f"{safe(str(row['label']))}: {scale.value(row['mean'])}, {count(row['tokens'])} tokens"
            for row in rows.to_dict("records")
        ]
        y = [scale.factor * float(value) for value in rows["mean"]]
        x = [round(float(value), 1) for value in rows["tokens"]]
        return {"type": "scatter", "x": x, "y": y, "hovertext": hover, "hoverinfo": "text", **more}

    data = [
        points(own, {"mode": "lines+markers", "name": "beaten by no other on both",
                     "line": {"color": "var(--best)", "width": 2, "shape": "hv"},
                     "marker": {"symbol": "star", "size": 12, "color": "var(--best)"}}),
    ]  # fmt: skip
    if len(others):
        marker = {"symbol": "circle-open", "size": 8, "color": "var(--faint)"}
        data.append(points(others, {"mode": "markers", "name": "others", "marker": marker}))
    return {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "tokens of a prompt, mean"}, "rangemode": "tozero"},
            "yaxis": {"ticksuffix": scale.unit, "zeroline": False},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "hovermode": "closest",
        },
    }


def _table(data: ReportData, front: pd.DataFrame, name: str, scale: Scale) -> Table:
    prices = [_price(data, str(row["run"]), str(row["model"])) for row in front.to_dict("records")]
    priced = any(price is not None for price in prices)
    rows = []
    for row, price in zip(front.to_dict("records"), prices, strict=True):
        cells = [Cell(str(row["label"])), Cell(count(row["tokens"]), row["tokens"])]
        if priced:
            paid = math.nan if price is None else price * row["tokens"] * PROMPTS / PER_MILLION
            cells.append(Cell(f"{paid:,.3f}" if math.isfinite(paid) else NOTHING, paid))
        rows.append(
            [*cells, Cell(scale.value(row["mean"]), row["mean"]), Cell(scale.interval(row["low"], row["high"]))]
        )
    columns = [Column("Strategy", False), Column("Tokens")]
    columns += [Column(f"Price of {PROMPTS:,} prompts")] if priced else []
    columns += [Column(scale.name.capitalize()), Column(f"{100 * data.level:g}% interval")]
    return Table(f"{name}: those that no other beats on both", columns, rows, folded=True)


def _price(data: ReportData, run: str, model: str) -> float | None:
    """Of a million prompt tokens, as the run's configuration has it; None where runs or models are averaged."""
    known = [one.manifest["config"] for one in data.runs if one.name == run and model in set(one.cells["model"])]
    if not known:
        return None
    config = known[0]
    named = [one for one in config.get("models", ()) if one.get("name") == model]
    price = (named[0] if named else config.get("model", {})).get("input_price")
    return None if price is None else float(price)
