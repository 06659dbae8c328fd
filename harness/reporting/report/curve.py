"""The section on prompting or labelling: accuracy against labelled examples, the best prompt as a band.

Knows curves and crossings; refuses to know how they are estimated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from harness.analysis.cells import of_prompts, over_seeds
from harness.analysis.crossing import Crossing, crossing_text
from harness.reporting.report.blocks import Cell, Chart, Column, Section, Table
from harness.reporting.report.charts import DASHES, SERIES, SYMBOLS, Spec, safe
from harness.reporting.report.gathering import ReportData
from harness.reporting.report.wording import NOTHING, Scale, count, duration, last_part, plural, titled

K_SHOT = "prompts, at n = K"
PROMPT = "best prompt, expected"


def curve_sections(data: ReportData, scale: Scale) -> Iterator[Section]:
    """One chart per run that trained classifiers on labelled examples."""
    if data.comparison is None or not data.comparison.crossings:
        return
    found = data.comparison.crossings
    charts: list[Chart] = []
    notes: list[str] = []
    for run in dict.fromkeys(one.run for one in found):
        own = [one for one in found if one.run == run]
        title = last_part(run) if len(data.runs) > 1 else ""
        name = titled(f"{scale.name.capitalize()} against labelled examples", title)
        spec = _spec(own, _k_shot(data, run), scale)
        summary = f"Lines of {plural(len(own), 'classifier')} over n on a logarithmic axis; the best prompt is a band."
        charts.append(Chart(f"curve-{len(charts)}", name, summary, spec, 440, _table(own, name, scale)))
        facts = next(one for one in data.runs if one.name == run)
        trained = sum(facts.training_seconds.values())
        per_model = ", ".join(f"{model} {duration(seconds)}" for model, seconds in facts.training_seconds.items())
        prompts = max(facts.cost.replica_seconds - trained, 0.0)
        notes.append(
            titled(f"Replicas worked {duration(prompts)} on prompts and references, {per_model} on training", title)
        )
    lead = f"When to stop prompting and label data instead: {'; '.join(map(crossing_text, found))}."
    notes = [f"{note}." for note in notes] + [
        "Points are means over the draws of labelled examples, with 95% intervals over samples and draws; the band is "
        "what the best prompt, chosen among single draws, is worth on new samples, corrected for the choice. "
        "The n of a classifier is interpolated on the logarithm between the sizes that were trained.",
    ]
    yield Section("curve", "Prompting or labelling", "Labelling", lead, charts, notes=notes)


def _k_shot(data: ReportData, run: str) -> list[tuple[int, float, str]]:
    """K, figure and name of every prompt with demonstrations, means over seeds."""
    cells = of_prompts(next(one for one in data.runs if one.name == run).cells)
    rows = over_seeds(cells).to_dict("records")
    return [
        (int(row["k"]), float(row["mean"]), f"{row['template']} K={row['k']}")
        for row in rows
        if row["k"] > 0 and math.isfinite(row["mean"])
    ]


def _spec(own: list[Crossing], k_shot: list[tuple[int, float, str]], scale: Scale) -> Spec:
    factor, prompt = scale.factor, own[0].prompt
    data: list[Spec] = []
    for place, one in enumerate(own):
        colour = f"var(--series-{place % SERIES + 1})"
        values = [factor * mean.value for mean in one.means]
        error: Spec = {
            "type": "data",
            "symmetric": False,
            "array": [factor * mean.high - value for mean, value in zip(one.means, values, strict=True)],
            "arrayminus": [value - factor * mean.low for mean, value in zip(one.means, values, strict=True)],
            "color": colour,
            "thickness": 1,
        }
        hover = [
            f"{safe(one.model)}, n={n:,}: {scale.value(mean.value)} ({scale.interval(mean.low, mean.high)})"
            for n, mean in zip(one.sizes, one.means, strict=True)
        ]
        data.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": safe(one.model), "x": list(one.sizes), "y": values,
                "error_y": error, "hovertext": hover, "hoverinfo": "text",
                "line": {"color": colour, "width": 2, "dash": DASHES[place // SERIES % len(DASHES)]},
                "marker": {"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 9, "color": colour},
            }
        )  # fmt: skip
    if k_shot:
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": K_SHOT, "x": [k for k, _, _ in k_shot],
                "y": [factor * value for _, value, _ in k_shot], "hoverinfo": "text",
                "hovertext": [f"{safe(name)}: {scale.value(value)}" for _, value, name in k_shot],
                "marker": {"symbol": "x-thin-open", "size": 9, "color": "var(--soft)"},
            }
        )  # fmt: skip
    ticks = sorted({*own[0].sizes, *(k for k, _, _ in k_shot)})
    # A trace and no shape, so that the legend names it.
    data.append(
        {
            "type": "scatter", "mode": "lines", "name": PROMPT, "x": [ticks[0], ticks[-1]],
            "y": [factor * prompt.value] * 2, "line": {"color": "var(--faint)", "width": 1.5, "dash": "dash"},
            "hovertext": f"{PROMPT}: {scale.value(prompt.value)} ({scale.interval(prompt.low, prompt.high)})",
            "hoverinfo": "text",
        }
    )  # fmt: skip
    ends = [factor * end for one in own for mean in one.means for end in (mean.low, mean.high)]
    ends += [factor * v for v in (prompt.value, prompt.low, prompt.high, *(value for _, value, _ in k_shot))]
    known = [end for end in ends if math.isfinite(end)]
    pad = 0.05 * (max(known) - min(known)) or 0.01 * factor
    shapes: list[dict[str, Any]] = []
    if math.isfinite(prompt.low):
        band = {"xref": "paper", "x0": 0, "x1": 1, "y0": factor * prompt.low, "y1": factor * prompt.high}
        shapes.append({"type": "rect", **band, "fillcolor": "alpha(--faint, 0.15)", "line": {"width": 0}})
    return {
        "data": data,
        "layout": {
            "xaxis": {
                "type": "log", "title": {"text": "labelled examples (log scale)"}, "tickvals": ticks,
                "ticktext": [f"{n:,}" for n in ticks],
            },
            "yaxis": {"ticksuffix": scale.unit, "zeroline": False, "range": [min(known) - pad, max(known) + pad]},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "shapes": shapes,
            "hovermode": "closest",
        },
    }  # fmt: skip


def _table(own: list[Crossing], name: str, scale: Scale) -> Table:
    rows = [
        [
            Cell(PROMPT, mark="best"),
            Cell(NOTHING),
            Cell(scale.value(own[0].prompt.value), own[0].prompt.value),
            Cell(scale.interval(own[0].prompt.low, own[0].prompt.high)),
        ]
    ]
    for one in own:
        for n, mean in zip(one.sizes, one.means, strict=True):
            values = Cell(scale.value(mean.value), mean.value), Cell(scale.interval(mean.low, mean.high))
            rows.append([Cell(one.model), Cell(count(n), float(n)), *values])
    columns = [Column("Classifier", False), Column("n"), Column(scale.name.capitalize()), Column("95% interval")]
    return Table(name, columns, rows, folded=True)
