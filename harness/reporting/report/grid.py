"""The sections on the grid: a score by template and K, and against K.

Knows figures over seeds per run and model; refuses to know tests and which strategy is best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from harness.analysis.cells import of_prompts, over_seeds
from harness.analysis.paired import TIE
from harness.analysis.strategies import THIS_DRAW
from harness.reporting.report import charts
from harness.reporting.report.blocks import FRAME, ROW, Cell, Chart, Column, Section, Table
from harness.reporting.report.gathering import ReportData, RunFacts, interval_columns
from harness.reporting.report.groups import group_at, groups_of
from harness.reporting.report.lines import MOST_NAMED, against_k
from harness.reporting.report.wording import NOTHING, Scale, last_part, plural, titled

ROOMY = 15
"""Templates up to which a heatmap's rows are tall."""


def _groups(data: ReportData) -> Iterator[tuple[str, str, RunFacts, pd.DataFrame]]:
    """Key, title, run and figures over seeds of every (run, model)."""
    for number, run in enumerate(data.runs):
        cells = of_prompts(run.cells)
        seeds = over_seeds(cells)
        # K = 0 is written under every seed, but has none.
        seeds["n_seeds"] = seeds["n_seeds"].where(seeds["k"] > 0, 1)
        for place, model in enumerate(dict.fromkeys(cells["model"])):
            many = (len(data.runs) > 1, of_prompts(data.cells)["model"].nunique() > 1)
            names = [last_part(n) for n, several in zip((run.name, str(model)), many, strict=True) if several]
            yield f"{number}-{place}", ", ".join(names), run, seeds[seeds["model"] == model]


def _one_draw(seeds: pd.DataFrame) -> str:
    """That points with K > 0 are of one draw, where some are."""
    return f" ({THIS_DRAW})" if ((seeds["k"] > 0) & (seeds["n_seeds"] < 2)).any() else ""


def heatmap_section(data: ReportData, scale: Scale) -> Section:
    """A heatmap per run and model: the mean of each template at each K."""
    found: list[Chart] = []
    groups = groups_of(data)
    for key, title, run, seeds in _groups(data):
        templates, ks = list(dict.fromkeys(seeds["template"])), sorted(set(seeds["k"].tolist()))
        model = str(seeds["model"].iloc[0])
        means = {(row["template"], row["k"]): float(row["mean"]) for row in seeds.to_dict("records")}
        values = [[means.get((t, k), math.nan) for k in ks] for t in templates]
        at = [[(-1, group_at(data, groups, run.name, model, str(t), k), -1) for k in ks] for t in templates]
        spec = charts.matrix(templates, [f"K={k}" for k in ks], values, at, scale)
        name = f"{scale.name.capitalize()} by template and K{_one_draw(seeds)}"
        rows = [
            [Cell(str(t)), *(Cell(scale.value(v), v, pick=pick) for v, pick in zip(own, picks, strict=True))]
            for t, own, picks in zip(templates, values, at, strict=True)
        ]
        columns = [Column("Template", False), *(Column(f"K={k}") for k in ks)]
        table = Table(titled(f"{name}, mean over seeds", title), columns, rows, folded=True)
        summary = f"Heatmap, {plural(len(templates), 'template')} by {len(ks)} values of K. {_extremes(seeds, scale)}"
        height = FRAME + (40 if len(templates) <= ROOMY else ROW) * len(templates)
        found.append(Chart(f"heatmap-{key}", titled(name, title), summary, spec, height, table))
    first = next(_groups(data))[3]
    lead = (
        f"Mean {scale.name} of each template (rows) at each number of demonstrations K (columns), averaged over "
        f"seeds{_one_draw(first)}. {_extremes(first, scale)}"
    )
    return Section("heatmap", "Templates and demonstrations", "Templates", lead, found)


def _extremes(seeds: pd.DataFrame, scale: Scale) -> str:
    known = seeds[seeds["mean"].notna()]
    if known.empty:
        return "Nothing was scored."
    if known["mean"].max() - known["mean"].min() < TIE:
        return f"All are at {scale.value(known['mean'].max())}."
    return (
        f"Highest {_extreme(known, known['mean'].max(), scale)}, lowest {_extreme(known, known['mean'].min(), scale)}."
    )


def _extreme(seeds: pd.DataFrame, value: float, scale: Scale) -> str:
    """The templates and Ks with a value, as far as two can be named."""
    rows = seeds[(seeds["mean"] - value).abs() < TIE].to_dict("records")
    names = [f"{row['template']} at K={row['k']}" for row in rows]
    shown = names if len(names) < 3 else [names[0], f"{len(names) - 1} others"]
    return f"{'is' if len(names) == 1 else 'are'} {' and '.join(shown)} with {scale.value(value)}"


def against_k_section(data: ReportData, scale: Scale, chance: float | None) -> Section:
    """Lines per run and model: each template over K, with its worst and best seed.

    Args:
        data: of the report.
        scale: of its metric.
        chance: share of the most frequent class; None where answers are generated.
    """
    groups = list(_groups(data))
    values = [v for *_, seeds in groups for name in ("least", "most") for v in seeds[name] if math.isfinite(v)]
    low, high = (scale.factor * v for v in (min(values), max(values))) if values else (0.0, 1.0)
    pad = max(0.08 * (high - low), 0.005 * scale.factor)
    # Shares have ends that a line may touch but no axis should pass.
    limits = (max(low - pad, 0.0), min(high + pad, 100.0)) if scale.percent else (low - pad, high + pad)
    found = []
    for key, title, _, seeds in groups:
        templates = list(dict.fromkeys(seeds["template"]))
        spec = against_k(seeds, templates, scale, limits, chance)
        name = titled(f"{scale.name.capitalize()} against K{_one_draw(seeds)}", title)
        summary = f"Lines of {plural(len(templates), 'template')} over K; all figures are in the table below."
        rows = [
            [
                Cell(str(row["template"])),
                Cell(str(row["k"])),
                Cell(scale.value(row["mean"]), row["mean"]),
                Cell(scale.value(row["least"]), row["least"]),
                Cell(scale.value(row["most"]), row["most"]),
                Cell(str(row["n_seeds"]) if row["k"] else NOTHING),
            ]
            for row in seeds.to_dict("records")
        ]
        titles = ("K", "Mean", "Worst seed", "Best seed", "Seeds")
        table = Table(f"{name}, over seeds", [Column("Template", False), *map(Column, titles)], rows, folded=True)
        found.append(Chart(f"against-k-{key}", name, summary, spec, 420 if len(templates) < 5 else 520, table))
    n_seeds = max(int(seeds["n_seeds"].max()) for *_, seeds in groups)
    band = "the band goes from the worst to the best seed"
    if n_seeds < 2:
        band = f"one seed was run, so there is no band{data.cell_draw}"
    low_end, high_end = interval_columns(data.metric)
    widths = (data.cells[high_end] - data.cells[low_end]) / 2
    lead = (
        f"How {scale.name} changes with the number of demonstrations: a line per template, its mean over seeds; "
        f"{band}. The choice of samples alone moves any point by about ±{scale.difference(float(widths.median()))[1:]}"
        f"{scale.points} ({100 * data.level:g}% interval)."
    )
    notes = []
    if chance is not None:
        drawn = limits[0] <= scale.factor * chance <= limits[1]
        where = "the dotted line" if drawn else "outside the chart"
        notes = [f"Always the most frequent class would score {scale.value(chance)}: {where}."]
    if max(seeds["template"].nunique() for *_, seeds in groups) > MOST_NAMED:
        notes.append("Of many templates those with the highest means are named; the others are grey and in the table.")
    return Section("against-k", "Against K", "Against K", lead, found, notes=notes)
