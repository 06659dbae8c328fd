"""Plotly figures as plain data. Colours are variables of the style sheet, so that themes can change them.

A colour is written `var(--name)` or, with transparency, `alpha(--name, 0.2)`; the page's script puts
in what the theme in use says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.table import FloatArray
from harness.reporting.report.blocks import Pick
from harness.reporting.report.wording import Scale, share

SERIES = 6
"""Hues that every pair of can be told apart; further lines change their dash."""
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
SEQUENTIAL = [[step / 4, f"var(--seq-{step})"] for step in range(5)]
DIVERGING = [[step / 4, f"var(--div-{step})"] for step in range(5)]
Spec = dict[str, Any]


def safe(text: str) -> str:
    """A text as Plotly shows it: it reads a subset of HTML."""
    return escape(text, quote=False)


def matrix(
    names: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    picks: Sequence[Sequence[Pick]],
    scale: Scale,
) -> Spec:
    """A heatmap with its figures as text, the first row on top.

    Args:
        names: of the rows.
        columns: their names.
        values: row by row.
        picks: what a click on each shows; see `Pick`.
        scale: of the values.
    """
    known = [v for row in values for v in row if math.isfinite(v)]
    varied = len(known) > 1 and max(known) > min(known)
    # Without a difference the colours would say something where there is nothing.
    ends: Spec = {} if varied else {"zmin": 0, "zmax": scale.factor}
    return _spec(
        [
            {
                "type": "heatmap",
                "x": [safe(name) for name in columns],
                "y": [safe(name) for name in names],
                "z": [[_number(scale.factor * v) for v in row] for row in values],
                "text": [[scale.value(v) for v in row] for row in values],
                "customdata": [[list(pick) for pick in row] for row in picks],
                "texttemplate": "%{text}",
                "hovertemplate": "%{y}, %{x}: %{text}<extra></extra>",
                "colorscale": SEQUENTIAL,
                "colorbar": {"thickness": 10, "outlinewidth": 0, "ticksuffix": scale.unit},
                "showscale": varied,
                **ends,
                "xgap": 2,
                "ygap": 2,
            }
        ],
        {
            "yaxis": {"autorange": "reversed", "showgrid": False, "type": "category"},
            "xaxis": {"showgrid": False, "type": "category"},
        },
    )


def ranking(strategies: pd.DataFrame, scale: Scale, level: float) -> Spec:
    """Points with intervals, the best on top; those that may be the best in their own colour and shape.

    Args:
        strategies: of `ReportData`, best first.
        scale: of the means.
        level: of the intervals.
    """
    groups = (
        ("best", "Best", "--best", "star", 12),
        ("like", "May be the best", "--best", "circle", 8),
        ("other", "Shown not to be", "--faint", "circle-open", 8),
    )
    kinds = np.where(strategies["is_best"], "best", np.where(strategies["may_be_best"], "like", "other"))
    labels = [safe(label) for label in strategies["label"]]
    data: list[Spec] = []
    for kind, title, colour, symbol, size in groups:
        rows = np.flatnonzero(kinds == kind)
        if not len(rows):
            continue
        own = strategies.iloc[rows]
        mean = scale.factor * own["mean"].to_numpy(dtype=float)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": title,
                "x": numbers(mean),
                "y": [labels[i] for i in rows],
                "marker": {"symbol": symbol, "size": size, "color": f"var({colour})"},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": numbers(scale.factor * own["high"].to_numpy(dtype=float) - mean),
                    "arrayminus": numbers(mean - scale.factor * own["low"].to_numpy(dtype=float)),
                    "color": f"var({colour})",
                    "thickness": 1.5,
                    "width": 0,
                },
                "hovertext": [
                    f"{labels[i]}: {scale.value(row['mean'])} "
                    f"({100 * level:g}% interval {scale.interval(row['low'], row['high'])}, n={row['n_scored']})"
                    for i, row in zip(rows, own.to_dict("records"), strict=True)
                ],
                "hoverinfo": "text",
                "customdata": [[-1, int(i), -1] for i in rows],
            }
        )
    return _spec(
        data,
        {
            "xaxis": _value_axis(strategies["low"].tolist() + strategies["high"].tolist(), scale),
            "yaxis": _label_axis(labels),
            "legend": {"orientation": "h", "y": 0, "yanchor": "top", "x": 0, "xanchor": "left"},
        },
    )


def difference_matrix(labels: Sequence[str], differences: FloatArray, differs: FloatArray, scale: Scale) -> Spec:
    """Row minus column for every pair; a dot where the pair is shown to differ.

    Args:
        labels: strategies, best first.
        differences: (labels, labels) NaN on the diagonal.
        differs: (labels, labels) 1 where shown to differ.
        scale: of the values.
    """
    names = [safe(label) for label in labels]
    z = scale.factor * differences
    known = z[np.isfinite(z)]
    most = float(np.abs(known).max()) if len(known) else 1.0
    return _spec(
        [
            {
                "type": "heatmap",
                "x": names,
                "y": names,
                "z": [[_number(v) for v in row] for row in z],
                "text": [["●" if flag else "" for flag in row] for row in differs],
                "texttemplate": "%{text}",
                "customdata": [[[row, column, -1] for column in range(len(names))] for row in range(len(names))],
                "hovertemplate": "%{y} minus %{x}: %{z:+.1f}" + scale.points + "<extra></extra>",
                "colorscale": DIVERGING,
                "zmin": -(most or 1.0),
                "zmax": most or 1.0,
                "colorbar": {"thickness": 10, "outlinewidth": 0},
                "xgap": 1,
                "ygap": 1,
            }
        ],
        {
            "xaxis": {"side": "top", "tickangle": -60, "showgrid": False, "type": "category"},
            "yaxis": {**_label_axis(names), "showgrid": False},
        },
    )


def shares(variance: pd.DataFrame) -> Spec:
    """Variance shares of one model as bars, with two standard errors."""
    labels = [safe(effect_name(effect)) for effect in variance["effect"]]
    values = variance["share"].to_numpy(dtype=float)
    errors = np.nan_to_num(2 * variance["share_se"].to_numpy(dtype=float), posinf=0.0)
    return _spec(
        [
            {
                "type": "bar",
                "orientation": "h",
                "x": numbers(100 * values),
                "y": labels,
                "marker": {"color": "var(--series-1)"},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": numbers(100 * errors),
                    "arrayminus": numbers(100 * np.minimum(errors, values)),
                    "color": "var(--ink)",
                    "thickness": 1,
                    "width": 3,
                },
                "hovertext": [f"{label}: {share(v)}" for label, v in zip(labels, values, strict=True)],
                "hoverinfo": "text",
            }
        ],
        {
            "xaxis": {"ticksuffix": "%", "range": [0, 100 * min(1.05 * float(np.nanmax(values + errors)), 1)]},
            "yaxis": _label_axis(labels),
            "bargap": 0.55,
        },
    )


def before_after(labels: Sequence[str], before: FloatArray, after: FloatArray, scale: Scale) -> Spec:
    """Two points per strategy joined by a line: as scored, and re-weighted."""
    names = [safe(label) for label in labels]
    old, new = numbers(scale.factor * before), numbers(scale.factor * after)
    joined_x = [v for a, b in zip(old, new, strict=True) for v in (a, b, None)]
    joined_y = [v for name in names for v in (name, name, None)]
    return _spec(
        [
            {
                "type": "scatter",
                "mode": "lines",
                "x": joined_x,
                "y": joined_y,
                "line": {"color": "var(--faint)", "width": 2},
                "hoverinfo": "skip",
                "showlegend": False,
            },
            *(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": title,
                    "x": x,
                    "y": names,
                    "marker": {"size": 9, "symbol": symbol, "color": colour},
                    "hovertemplate": "%{y}, " + title.lower() + ": %{x:.1f}" + scale.unit + "<extra></extra>",
                }
                for title, x, symbol, colour in (
                    ("Before", old, "circle-open", "var(--series-2)"),
                    ("After", new, "circle", "var(--series-1)"),
                )
            ),
        ],
        {
            "xaxis": _value_axis([*before, *after], scale),
            "yaxis": _label_axis(names),
            "legend": {"orientation": "h", "y": 0, "yanchor": "top", "x": 0, "xanchor": "left"},
        },
    )


def effect_name(effect: str) -> str:
    """An effect of the decomposition as people read it."""
    return " × ".join("K" if factor == "k" else factor for factor in effect.split(" x "))


def _value_axis(values: Sequence[float], scale: Scale) -> Spec:
    """Its range is given, since labels that stand inside would widen it."""
    known = [scale.factor * v for v in values if math.isfinite(v)] or [0.0, scale.factor]
    pad = 0.04 * (max(known) - min(known)) or 0.01 * scale.factor
    ends = [min(known) - pad, max(known) + pad]
    return {"ticksuffix": scale.unit, "zeroline": False, "side": "top", "range": ends}


def _label_axis(labels: Sequence[str]) -> Spec:
    return {"type": "category", "categoryorder": "array", "categoryarray": list(labels), "autorange": "reversed"}


def _spec(data: Sequence[Spec], layout: Spec) -> Spec:
    return {"data": list(data), "layout": layout}


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def numbers(values: FloatArray) -> list[float | None]:
    """Values for a figure's JSON, None where there is none."""
    return [_number(value) for value in values]
