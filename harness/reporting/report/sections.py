"""The parts of a page in their order: each begins with one plain sentence.

Knows those on strategies, prompts and samples itself; refuses to know what charts look like and how figures came about.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from harness.analysis.confusion import Confusion
from harness.reporting.comparison import allocation_texts
from harness.reporting.report import charts
from harness.reporting.report.audit import audit_sections
from harness.reporting.report.blocks import CHARTED, FRAME, Chart, Section, rows_chart
from harness.reporting.report.browser import Browser
from harness.reporting.report.calibration import calibration_sections
from harness.reporting.report.cost import cost_sections
from harness.reporting.report.curve import curve_sections
from harness.reporting.report.gallery import gallery
from harness.reporting.report.gathering import ReportData
from harness.reporting.report.grid import against_k_section, heatmap_section
from harness.reporting.report.positions import position_sections
from harness.reporting.report.provenance import facts_section
from harness.reporting.report.race import race_sections
from harness.reporting.report.slices import slice_sections
from harness.reporting.report.tables import (
    class_table,
    confusion_table,
    pairs_table,
    ranking_table,
    sensitivity_table,
    variance_table,
)
from harness.reporting.report.wording import Scale, count, last_part, plural, share, titled

MATRICES = 6
"""Confusion matrices drawn; the table has all."""


def sections(data: ReportData, scale: Scale, chance: float | None, shown: Browser) -> list[Section]:
    """All sections after the first screen that these runs can have.

    Args:
        data: of the report.
        scale: of its metric.
        chance: share of the most frequent class; None where answers are generated.
        shown: the samples that the page carries.
    """
    return [
        *race_sections(data),
        heatmap_section(data, scale),
        against_k_section(data, scale, chance),
        *curve_sections(data, scale),
        _ranking(data, scale),
        *cost_sections(data, scale),
        *position_sections(data, scale),
        *_differences(data, scale),
        *slice_sections(data, scale),
        *_variance(data, scale),
        *calibration_sections(data, scale),
        *_confusion(data),
        _prompts(data),
        _samples(data, shown),
        *audit_sections(data),
        facts_section(data),
    ]


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
    chart = rows_chart("ranking", name, lead, charts.ranking(top, scale, data.level), len(top), None)
    notes = [
        "Intervals are for one strategy at a time. Overlap of two does not mean that they are equal: who may be the "
        "best is decided by paired tests on the same samples (see Differences).",
        f"May be the best: no other is shown to be better; the truly best is among these in {100 * data.level:g}% of "
        "such comparisons. More samples may decide.",
    ]
    if len(frame) > CHARTED:
        notes.append(f"The chart shows the first {CHARTED} of {len(frame)}; the table has all.")
    notes += data.comparison_notes if data.comparison is None else data.comparison.notes
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
    notes = [
        "A dot marks a pair that is shown to differ; blue: the row is better, orange: the column is.",
        "A click shows the samples that the row has right and the column wrong.",
    ]
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
                notes.append(titled("All single results are the same, so there is no variance to share out", title))
                continue
            name = titled("Variance shares", title)
            largest = own.sort_values("share").iloc[-1]
            if not found:
                lead = (
                    f"What makes single results differ: {share(largest['share'])} of their variance comes from "
                    f"{_effect(str(largest['effect']))}."
                )
            table = variance_table(own, f"{name} of single results")
            found.append(rows_chart(f"variance-{number}", name, lead, charts.shares(own), len(own), table))
        notes += [f"{note[0].upper()}{note[1:]}." for note in variance["note"].unique() if note]
        if found:
            notes.append("Bars have two standard errors; components below zero count as zero.")
    texts = [text.replace("+-", "±") for text in allocation_texts(data.comparison.allocation)]
    notes = [f"{text[0].upper()}{text[1:]}." for text in texts] + notes
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


def _confusion(data: ReportData) -> Iterator[Section]:
    if data.answers.confusions is None:
        return
    cells = data.cells["label"].tolist()
    pooled = _pooled(data)
    if not pooled:
        return
    best, draws = pooled[0][1], int(data.strategies["n_draws"].iloc[0])
    recalls = [best.recall(i) for i in range(len(data.class_names))]
    known = [(r, name) for r, name in zip(recalls, data.class_names, strict=True) if math.isfinite(r.value)]
    lead = f"Which classes are taken for which, per strategy{data.draw}."
    if known:
        worst, name = min(known, key=lambda pair: pair[0].value)
        # Samples come once per draw, so that an interval over all of them would be too short.
        sure = f"over {draws} draws" if draws > 1 else f"{share(worst.low)} to {share(worst.high)}, n={worst.n}"
        lead = (
            f"Which classes are taken for which: of the gold samples of “{name}”, the class that the best strategy "
            f"finds least, it finds {share(worst.value)} ({sure}){data.draw}."
        )
    matrices = [confusion_table(label, matrix, data.class_names) for label, matrix in pooled[:MATRICES]]
    notes = [f"Matrices of the first {MATRICES} strategies; the table has all cells."] if len(pooled) > MATRICES else []
    if (data.strategies["n_draws"] > 1).any():
        notes.append("Matrices count the records of all draws of demonstrations; the table has each draw.")
    found = list(zip(cells, data.answers.confusions, strict=True))
    tables = [*matrices, class_table(found, data.class_names, data.cell_draw)]
    yield Section("confusion", "Confusion matrices", "Confusion", lead, tables=tables, notes=notes)


def _pooled(data: ReportData) -> list[tuple[str, Confusion]]:
    """Label and matrix of every strategy, over all of its cells."""
    assert data.answers.confusions is not None
    found = []
    for row, label in enumerate(data.strategies["label"]):
        own = [data.answers.confusions[cell] for cell in np.flatnonzero(data.cells["strategy"] == row)]
        counts = np.sum([one.counts for one in own], axis=0)
        found.append((str(label), Confusion(counts, sum(one.n_attempted for one in own))))
    return found


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
