"""The figure of a score against K: a line per template.

Of many templates the best are named and the others stand behind them in grey, so that lines stay readable.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.reporting.report.charts import DASHES, SERIES, SYMBOLS, Spec, numbers, safe
from harness.reporting.report.wording import Scale

MOST_NAMED = 8
"""Templates up to which all are named."""


def named(seeds: pd.DataFrame, templates: Sequence[str]) -> list[str]:
    """The templates that have a name and a colour of their own: all, or those that reach the highest means."""
    if len(templates) <= MOST_NAMED:
        return list(templates)
    highest = seeds.groupby("template", sort=False)["mean"].max().reindex(list(templates)).sort_values(ascending=False)
    best = set(highest.index[:SERIES])
    return [template for template in templates if template in best]


def against_k(
    seeds: pd.DataFrame, templates: Sequence[str], scale: Scale, limits: tuple[float, float], chance: float | None
) -> Spec:
    """A line per template over K, with a band from the worst to the best seed of those that are named.

    Args:
        seeds: of one model, from `harness.analysis.cells.over_seeds`.
        templates: lines.
        scale: of the values.
        limits: of the value axis, common to several figures.
        chance: share of the most frequent class, drawn as a line.
    """
    own = named(seeds, templates)
    others = [template for template in templates if template not in own]
    data = [_line(seeds, template, scale, {"color": "var(--line)", "width": 1.5}, {}) for template in others]
    for place, template in enumerate(own):
        colour = f"--series-{place % SERIES + 1}"
        marker = {"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 9, "color": f"var({colour})"}
        line = {"color": f"var({colour})", "width": 2, "dash": DASHES[place // SERIES % len(DASHES)]}
        data += [_band(seeds, template, scale, colour), _line(seeds, template, scale, line, marker)]
    shapes: list[Spec] = []
    if chance is not None and limits[0] <= scale.factor * chance <= limits[1]:
        level = scale.factor * chance
        style = {"color": "var(--faint)", "width": 1, "dash": "dot"}
        shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level, "line": style})
    ks = sorted(set(seeds["k"].tolist()))
    return {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "K, demonstrations in the prompt"}, "tickvals": ks, "zeroline": False},
            "yaxis": {"range": list(limits), "ticksuffix": scale.unit, "zeroline": False},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "shapes": shapes,
            "hovermode": "closest",
        },
    }


def _points(seeds: pd.DataFrame, template: str) -> pd.DataFrame:
    return seeds[(seeds["template"] == template) & seeds["mean"].notna()].sort_values("k")


def _band(seeds: pd.DataFrame, template: str, scale: Scale, colour: str) -> Spec:
    points = _points(seeds, template)
    x = points["k"].tolist()
    low, high = (numbers(scale.factor * points[name].to_numpy()) for name in ("least", "most"))
    return {
        "type": "scatter", "mode": "lines", "x": [*x, *reversed(x)], "y": [*high, *reversed(low)],
        "fill": "toself", "fillcolor": f"alpha({colour}, 0.14)", "line": {"width": 0, "color": f"alpha({colour}, 0)"},
        "hoverinfo": "skip", "showlegend": False, "legendgroup": safe(template),
    }  # fmt: skip


def _line(seeds: pd.DataFrame, template: str, scale: Scale, line: Spec, marker: Spec) -> Spec:
    """One with a marker is named in the legend."""
    points, name = _points(seeds, template), safe(template)
    hover = [
        f"{name}, K={row['k']}: {scale.value(row['mean'])}"
        + (f" ({scale.interval(row['least'], row['most'])} over {row['n_seeds']} seeds)" if row["k"] else "")
        for row in points.to_dict("records")
    ]
    return {
        "type": "scatter", "mode": "lines+markers" if marker else "lines", "name": name, "legendgroup": name,
        "x": points["k"].tolist(), "y": numbers(scale.factor * points["mean"].to_numpy()), "line": line,
        "hovertext": hover, "hoverinfo": "text", **({"marker": marker} if marker else {"showlegend": False}),
    }  # fmt: skip
