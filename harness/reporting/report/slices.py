"""The section on parts of the samples: each class, and samples from short to long.

Knows which samples make a slice; refuses to know how an interval comes about.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.analysis.failures import common_samples
from harness.analysis.intervals import mean_interval
from harness.analysis.table import BoolArray
from harness.reporting.report import charts
from harness.reporting.report.blocks import CHARTED, FRAME, ROW, Cell, Chart, Column, Section, Table
from harness.reporting.report.gathering import ReportData
from harness.reporting.report.groups import POINT, groups_of, per_sample
from harness.reporting.report.wording import Scale, count

MOST_CLASSES = 12
LENGTHS = 4
"""Slices by length: quarters of the samples."""
LEAST = 40
"""Samples under which lengths are not told apart."""


@dataclass(frozen=True)
class Slice:
    """Some of the samples."""

    name: str
    samples: BoolArray
    """(N,)"""


def slices_of(data: ReportData) -> list[Slice]:
    """Classes, where all samples have the same few; then quarters by the characters of all fields."""
    grid, found = data.answers, []
    has_classes = not data.is_generated and not data.runs[0].manifest.get("choices")
    if has_classes and len(data.class_names) <= MOST_CLASSES:
        found = [Slice(name, grid.gold == place) for place, name in enumerate(data.class_names)]
    lengths = np.array([sum(map(len, texts)) for texts in zip(*grid.fields.values(), strict=True)])
    if len(lengths) >= LEAST:
        edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTHS + 1), method="inverted_cdf"))
        for low, high in zip([edges[0] - 1, *edges[1:-1]], edges[1:], strict=True):
            inside = (lengths > low) & (lengths <= high)
            found.append(Slice(f"{count(int(lengths[inside].min()))}–{count(int(high))} chars", inside))
    return [one for one in found if one.samples.any()] if len(found) > 1 else []


def slice_sections(data: ReportData, scale: Scale) -> Iterator[Section]:
    """One section where there are slices to tell apart; none where a race chose who was asked what."""
    slices = slices_of(data)
    if len(slices) < 2 or data.decided_race is not None:
        return
    groups = groups_of(data)[: len(data.strategies)]
    values = np.array([per_sample(data, group) for group in groups])
    common, ranked = common_samples(np.isfinite(values))
    # As in the ranking, so that parts add up to its means.
    values[np.ix_(ranked, ~common)] = math.nan
    means = [[_mean(value[one.samples]) for one in slices] for value in values]
    best, clusters = groups[0], data.answers.clusters
    draws = values[:1]
    at_random = data.comparison is None or data.comparison.settings["seeds_as"] != "fixed"
    if at_random and len(data.cells.iloc[list(best.cells)][POINT].drop_duplicates()) == 1:
        draws = np.where(np.isfinite(values[0]), data.answers.value[list(best.cells)], math.nan)
    sure = [
        mean_interval(draws[:, one.samples], None if clusters is None else clusters[one.samples], data.level)
        for one in slices
    ]
    known = [(found, one) for found, one in zip(sure, slices, strict=True) if math.isfinite(found.value)]
    lead = f"{scale.name.capitalize()} on parts of the samples."
    if known:
        found, weakest = min(known, key=lambda pair: pair[0].value)
        lead = (
            f"Where strategies fail: the best is weakest on {weakest.name}, {scale.value(found.value)} "
            f"({scale.interval(found.low, found.high)}, n={count(found.n)}){data.draw}."
        )
    top = min(len(groups), CHARTED)
    names = [one.name for one in slices]
    at = [[(-1, row, place) for place in range(len(slices))] for row in range(top)]
    spec = charts.matrix([group.label for group in groups[:top]], names, means[:top], at, scale)
    name = f"{scale.name.capitalize()} on parts of the samples{data.draw}"
    columns = [Column("Strategy", False), *(Column(one) for one in names)]
    rows = [
        [Cell(group.label), *(Cell(scale.value(v), v, pick=(-1, row, i)) for i, v in enumerate(own))]
        for row, (group, own) in enumerate(zip(groups, means, strict=True))
    ]
    every = Table(name, columns, rows, folded=True)
    titles = (scale.name.capitalize(), f"{100 * data.level:g}% interval", "n")
    own_rows = [
        [Cell(one.name), Cell(scale.value(f.value), f.value), Cell(scale.interval(f.low, f.high)), Cell(count(f.n))]
        for one, f in zip(slices, sure, strict=True)
    ]
    best_table = Table(
        f"The best, {best.label}, on parts of the samples{data.draw}",
        [Column("Samples", False), *map(Column, titles)],
        own_rows,
    )
    summary = f"Heatmap of strategies by parts of the samples. {lead}"
    chart = Chart("slices", name, summary, spec, FRAME + ROW * top + 40, every, wide=True)
    notes = ["A click on a figure shows the samples that it counts as wrong."]
    notes.append("Intervals are for one part at a time; parts were not compared with each other.")
    yield Section("slices", "Parts of the samples", "Parts", lead, [chart], [best_table], notes)


def _mean(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan
