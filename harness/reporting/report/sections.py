"""The parts of a page in their order: each begins with one plain sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.cells import over_seeds
from harness.analysis.paired import TIE
from harness.analysis.strategies import THIS_DRAW
from harness.reporting.comparison import allocation_texts
from harness.reporting.report import charts
from harness.reporting.report.audit import audit_sections
from harness.reporting.report.blocks import Cell, Chart, Column, Section, Table
from harness.reporting.report.browser import Browser
from harness.reporting.report.gallery import gallery
from harness.reporting.report.gathering import ReportData, RunFacts
from harness.reporting.report.provenance import facts_section
from harness.reporting.report.tables import (
    class_table,
    confusion_table,
    pairs_table,
    ranking_table,
    sensitivity_table,
    variance_table,
)
from harness.reporting.report.wording import NOTHING, Scale, count, last_part, plural, share

CHARTED = 30
"""Strategies in a chart at most; tables have more."""
MATRICES = 6
"""Confusion matrices drawn; the table has all."""
ROW, NARROW_ROW, FRAME = 26, 42, 90
"""Pixels per row of a chart, where its label stands above it, and around the rows."""


def sections(data: ReportData, scale: Scale, chance: float | None, shown: Browser) -> list[Section]:
    """All sections after the first screen that these runs can have.

    Args:
        data: of the report.
        scale: of its metric.
        chance: share of the most frequent class; None where answers are generated.
        shown: the samples that the page carries.
    """
    return [
        _heatmap(data, scale),
        _against_k(data, scale, chance),
        _ranking(data, scale),
        *_differences(data, scale),
        *_variance(data, scale),
        *_calibration(data, scale),
        *_confusion(data),
        _prompts(data),
        _samples(data, shown),
        *audit_sections(data),
        facts_section(data),
    ]


def _groups(data: ReportData) -> Iterator[tuple[str, str, RunFacts, pd.DataFrame]]:
    """Key, title, run and figures over seeds of every (run, model)."""
    for number, run in enumerate(data.runs):
        seeds = over_seeds(run.cells)
        # K = 0 is written under every seed, but has none.
        seeds["n_seeds"] = seeds["n_seeds"].where(seeds["k"] > 0, 1)
        for place, model in enumerate(dict.fromkeys(run.cells["model"])):
            many = (len(data.runs) > 1, data.strategies["model"].nunique() > 1)
            names = [last_part(n) for n, several in zip((run.name, str(model)), many, strict=True) if several]
            yield f"{number}-{place}", ", ".join(names), run, seeds[seeds["model"] == model]


def _one_draw(seeds: pd.DataFrame) -> str:
    """That points with K > 0 are of one draw, where some are."""
    return f" ({THIS_DRAW})" if ((seeds["k"] > 0) & (seeds["n_seeds"] < 2)).any() else ""


def _heatmap(data: ReportData, scale: Scale) -> Section:
    found: list[Chart] = []
    for key, title, _, seeds in _groups(data):
        templates, ks = list(dict.fromkeys(seeds["template"])), sorted(set(seeds["k"].tolist()))
        spec = charts.heatmap(seeds, templates, ks, scale)
        name = f"{scale.name.capitalize()} by template and K{_one_draw(seeds)}"
        rows = [
            [
                Cell(str(t)),
                *(_mean_cell(seeds[(seeds["template"] == t) & (seeds["k"] == k)], scale) for k in ks),
            ]
            for t in templates
        ]
        columns = [Column("Template", False), *(Column(f"K={k}") for k in ks)]
        table = Table(_titled(f"{name}, mean over seeds", title), columns, rows, folded=True)
        summary = f"Heatmap, {plural(len(templates), 'template')} by {len(ks)} values of K. {_extremes(seeds, scale)}"
        height = FRAME + 40 * len(templates)
        found.append(Chart(f"heatmap-{key}", _titled(name, title), summary, spec, height, table))
    first = next(_groups(data))[3]
    lead = (
        f"Mean {scale.name} of each template (rows) at each number of demonstrations K (columns), averaged over "
        f"seeds{_one_draw(first)}. {_extremes(first, scale)}"
    )
    return Section("heatmap", "Templates and demonstrations", "Templates", lead, found)


def _mean_cell(rows: pd.DataFrame, scale: Scale) -> Cell:
    value = float(rows["mean"].iloc[0]) if len(rows) else math.nan
    return Cell(scale.value(value), value)


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


def _against_k(data: ReportData, scale: Scale, chance: float | None) -> Section:
    groups = list(_groups(data))
    values = [v for *_, seeds in groups for name in ("least", "most") for v in seeds[name] if math.isfinite(v)]
    low, high = (scale.factor * v for v in (min(values), max(values))) if values else (0.0, 1.0)
    pad = max(0.08 * (high - low), 0.005 * scale.factor)
    # Shares have ends that a line may touch but no axis should pass.
    limits = (max(low - pad, 0.0), min(high + pad, 100.0)) if scale.percent else (low - pad, high + pad)
    found = []
    for key, title, _, seeds in groups:
        templates = list(dict.fromkeys(seeds["template"]))
        spec = charts.against_k(seeds, templates, scale, limits, chance)
        name = _titled(f"{scale.name.capitalize()} against K{_one_draw(seeds)}", title)
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
        found.append(Chart(f"against-k-{key}", name, summary, spec, 420, table))
    n_seeds = max(int(seeds["n_seeds"].max()) for *_, seeds in groups)
    band = "the band goes from the worst to the best seed"
    if n_seeds < 2:
        band = f"one seed was run, so there is no band{data.draw}"
    widths = (data.strategies["high"] - data.strategies["low"]) / 2
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
    return Section("against-k", "Against K", "Against K", lead, found, notes=notes)


def _ranking(data: ReportData, scale: Scale) -> Section:
    frame = data.strategies
    top = frame.head(CHARTED)
    alike = int(frame["may_be_best"].sum())
    rest = len(frame) - alike
    lead = (
        f"Every strategy with its {100 * data.level:g}% interval, best first: {count(alike)} may be the best, "
        f"{'none' if rest == 0 else count(rest)} {'is' if rest < 2 else 'are'} shown not to be{data.draw}."
    )
    name = f"{scale.name.capitalize()} of the strategies with intervals{data.draw}"
    chart = _rows_chart("ranking", name, lead, charts.ranking(top, scale, data.level), len(top), None)
    notes = [
        "Intervals are for one strategy at a time. Overlap of two does not mean that they are equal: who may be the "
        "best is decided by paired tests on the same samples (see Differences).",
        f"May be the best: no other is shown to be better; the truly best is among these in {100 * data.level:g}% of "
        "such comparisons. More samples may decide.",
    ]
    if len(frame) > CHARTED:
        notes.append(f"The chart shows the first {CHARTED} of {len(frame)}; the table has all.")
    notes += [] if data.comparison is None else data.comparison.notes
    return Section("ranking", "Ranking", "Ranking", lead, [chart], [ranking_table(data, scale)], notes)


def _differences(data: ReportData, scale: Scale) -> Iterator[Section]:
    if data.comparison is None:
        return
    labels = data.strategies["label"].head(CHARTED).tolist()
    place = {label: i for i, label in enumerate(labels)}
    differences = np.full((len(labels), len(labels)), np.nan)
    differs = np.zeros((len(labels), len(labels)))
    for row in data.comparison.pairs.to_dict("records"):
        if row["first"] in place and row["second"] in place:
            a, b = place[row["first"]], place[row["second"]]
            differences[a, b], differences[b, a] = row["difference"], -row["difference"]
            differs[a, b] = differs[b, a] = bool(row["differs"])
    settled, family = int(data.comparison.pairs["differs"].sum()), len(data.comparison.pairs)
    lead = (
        f"Each strategy against each other on the same samples: {count(settled)} of {plural(family, 'pair')} are shown "
        f"to differ (family-wise error {100 * (1 - data.level):.2g}%, Holm){data.draw}."
    )
    spec = charts.difference_matrix(labels, differences, differs, scale)
    height = FRAME + 110 + max(22 * len(labels), 160)
    name = f"Differences in {scale.name}, row minus column{data.draw}"
    chart = Chart("differences", name, f"Matrix. {lead}", spec, height, pairs_table(data, scale), wide=True)
    notes = ["A dot marks a pair that is shown to differ; blue: the row is better, orange: the column is."]
    if len(data.strategies) > CHARTED:
        notes.append(f"The matrix has the first {CHARTED} of {len(data.strategies)} strategies.")
    yield Section("differences", "Differences between strategies", "Differences", lead, [chart], notes=notes)


def _variance(data: ReportData, scale: Scale) -> Iterator[Section]:
    if data.comparison is None or (data.comparison.variance.empty and data.comparison.sensitivity.empty):
        return
    variance, sensitivity = data.comparison.variance, data.comparison.sensitivity
    found: list[Chart] = []
    notes: list[str] = []
    lead = "How much the score depends on the wording."
    if not variance.empty:
        for number, ((run, model), own) in enumerate(variance.groupby(["run", "model"], sort=False)):
            several = len(variance[["run", "model"]].drop_duplicates()) > 1
            title = ", ".join(last_part(str(name)) for name in (run, model) if name) if several else ""
            if own["share"].isna().all():
                notes.append(_titled("All single results are the same, so there is no variance to share out", title))
                continue
            name = _titled("Variance shares", title)
            largest = own.sort_values("share").iloc[-1]
            if not found:
                lead = (
                    f"What makes single results differ: {share(largest['share'])} of their variance comes from "
                    f"{_effect(str(largest['effect']))}."
                )
            table = variance_table(own, f"{name} of single results")
            found.append(_rows_chart(f"variance-{number}", name, lead, charts.shares(own), len(own), table))
        notes += [f"{note[0].upper()}{note[1:]}." for note in variance["note"].unique() if note]
        if found:
            notes.append("Bars have two standard errors; components below zero count as zero.")
    notes = [f"{text[0].upper()}{text[1:]}." for text in allocation_texts(data.comparison.allocation)] + notes
    tables = [sensitivity_table(sensitivity, scale, data.level)] if not sensitivity.empty else []
    yield Section("variance", "What the score depends on", "Variance", lead, found, tables, notes)


def _effect(effect: str) -> str:
    return {
        "sample": "which sample is asked",
        "template": "the template",
        "k": "K",
        "seed": "the seed of the demonstrations",
        "residual": "what no factor or pair of factors explains",
    }.get(effect, f"the interaction {charts.effect_name(effect)}")


CORRECTIONS = {
    "batch": "batch calibration",
    "contextual": "contextual calibration",
    "PMI_DC": "domain-conditional PMI",
    "ensemble": "the ensemble of templates",
}
"""Methods of `calibrate` in words."""


def _calibration(data: ReportData, scale: Scale) -> Iterator[Section]:
    """Each method with a sentence, a chart and a table of its own."""
    if all(run.calibration is None for run in data.runs):
        return
    found: list[Chart] = []
    tables: list[Table] = []
    notes: list[str] = []
    sentences: list[str] = []
    for number, run in enumerate(data.runs):
        title = last_part(run.name)
        if run.calibration is None:
            continue
        for row in run.calibration.overall.to_dict("records"):
            method = str(row["method"])
            sentences += [_titled(_corrected(row, scale), title)]
            table = _calibration_table(data, run, method, title, scale)
            if method == "ensemble":
                tables.append(table)
            else:
                found.append(_calibration_chart(data, run, number, method, table, scale))
        notes += [f"{note[0].upper()}{note[1:]}." for note in run.calibration.notes]
    lead = (
        f"What re-weighting the labels by what a prompt prefers by itself makes of {scale.name}, averaged over cells: "
    )
    lead += f"{'; '.join(sentences)}{data.draw}."
    yield Section("calibration", "Calibration", "Calibration", lead, found, tables, list(dict.fromkeys(notes)))


def _corrected(row: Mapping[Any, Any], scale: Scale) -> str:
    verb = "raises" if row["low"] > 0 else "lowers" if row["high"] < 0 else "is not shown to change"
    return (
        f"{CORRECTIONS[str(row['method'])]} {verb} it, {scale.value(row['before'])} before, "
        f"{scale.value(row['after'])} after "
        f"({scale.difference(row['difference'])}{scale.points}, {scale.change(row['low'], row['high'])})"
    )


def _calibration_chart(data: ReportData, run: RunFacts, number: int, method: str, table: Table, scale: Scale) -> Chart:
    assert run.calibration is not None
    cells = run.calibration.cells
    keys = ["model", "template", "k", "cell_seed"]
    own = data.strategies[data.strategies["run"] == run.name][[*keys, "label"]]
    corrected = cells[cells["method"] == method].rename(columns={"seed": "cell_seed"})
    top = own.merge(corrected, on=keys, how="inner").head(CHARTED)
    before, after = (top[name].to_numpy(dtype=float) for name in ("before", "after"))
    spec = charts.before_after(top["label"].tolist(), before, after, scale)
    summary = f"Two points for each of {plural(len(top), 'cell')}; all figures are in the table below."
    name = f"calibration-{number}" + ("" if method == "batch" else f"-{method.lower()}")
    return _rows_chart(name, table.caption, summary, spec, len(top), table)


def _calibration_table(data: ReportData, run: RunFacts, method: str, title: str, scale: Scale) -> Table:
    assert run.calibration is not None
    cells = run.calibration.cells
    several = cells["model"].nunique() > 1
    rows = []
    for frame in (run.calibration.overall, cells):
        for row in frame[frame["method"] == method].to_dict("records"):
            averaged = "n_cells" in row
            what = f"all {row['n_cells']} cells" if averaged else f"{row['template']} K={row['k']} seed={row['seed']}"
            if not averaged and several:
                what = f"{last_part(str(row['model']))} {what}"
            rows.append(
                [
                    Cell(what, mark="best" if averaged else ""),
                    Cell(scale.value(row["before"]), row["before"]),
                    Cell(scale.value(row["after"]), row["after"]),
                    Cell(scale.difference(row["difference"]), row["difference"]),
                    Cell(scale.change(row["low"], row["high"])),
                    Cell(f"{count(row['n'])} / {count(row['n_attempted'])}"),
                ]
            )
    titles = ("Before", "After", "Difference", f"{100 * data.level:g}% interval", "Scored / attempted")
    name = _titled(f"{scale.name.capitalize()} before and after {CORRECTIONS[method]}{data.draw}", title)
    return Table(name, [Column("Cell", False), *map(Column, titles)], rows, folded=True)


def _confusion(data: ReportData) -> Iterator[Section]:
    if data.answers.confusions is None:
        return
    labels = data.strategies["label"].tolist()
    found = list(zip(labels, data.answers.confusions, strict=True))
    best = found[0][1]
    recalls = [best.recall(i) for i in range(len(data.class_names))]
    known = [(r, name) for r, name in zip(recalls, data.class_names, strict=True) if math.isfinite(r.value)]
    lead = f"Which classes are taken for which, per strategy{data.draw}."
    if known:
        worst, name = min(known, key=lambda pair: pair[0].value)
        lead = (
            f"Which classes are taken for which: of the gold samples of “{name}”, the class that the best strategy "
            f"finds least, it finds {share(worst.value)} ({share(worst.low)} to {share(worst.high)}, n={worst.n})"
            f"{data.draw}."
        )
    matrices = [confusion_table(label, matrix, data.class_names) for label, matrix in found[:MATRICES]]
    notes = [f"Matrices of the first {MATRICES} strategies; the table has all."] if len(found) > MATRICES else []
    tables = [*matrices, class_table(found, data.class_names, data.draw)]
    yield Section("confusion", "Confusion matrices", "Confusion", lead, tables=tables, notes=notes)


def _prompts(data: ReportData) -> Section:
    found = gallery(data)
    lead = "The prompt of each template as the model gets it, with its length in tokens over all samples."
    notes = [found.note] if found.note else []
    return Section("prompts", "Prompts", "Prompts", lead, notes=notes, kind="prompts", extra=found.examples)


def _samples(data: ReportData, shown: Browser) -> Section:
    most = count(shown.n_samples)
    if shown.n_shown < shown.n_samples:
        names = (
            "failed, wrong everywhere, disagreeing, off-label or cut-off"
            if data.is_generated
            else ("wrong everywhere, disagreeing, failed or off-label")
        )
        lead = (
            f"{count(shown.n_shown)} of {most} samples, to keep this file small: samples that are {names} and samples "
            "of any kind take turns, each in the order of a hash of their ids. The filters count all samples."
        )
    else:
        lead = f"All {most} samples with what each strategy made of them."
    return Section("samples", "Samples", "Samples", lead, kind="samples", extra=shown)


def _rows_chart(name: str, title: str, summary: str, spec: charts.Spec, rows: int, table: Table | None) -> Chart:
    return Chart(name, title, summary, spec, FRAME + ROW * rows, table, narrow_height=FRAME + NARROW_ROW * rows)


def _titled(name: str, title: str) -> str:
    return f"{name}, {title}" if title else name
