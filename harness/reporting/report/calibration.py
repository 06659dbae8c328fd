"""The section on what corrected scores predict, where they were calibrated.

Knows the methods in words; refuses to know how scores are corrected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.reporting.report import charts
from harness.reporting.report.blocks import CHARTED, Cell, Chart, Column, Section, Table, rows_chart
from harness.reporting.report.gathering import ReportData, RunFacts
from harness.reporting.report.wording import Scale, count, last_part, plural, titled

CORRECTIONS = {
    "batch": "batch calibration",
    "contextual": "contextual calibration",
    "PMI_DC": "domain-conditional PMI",
    "ensemble": "the ensemble of templates",
}
"""Methods of `calibrate` in words."""


def calibration_sections(data: ReportData, scale: Scale) -> Iterator[Section]:
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
            sentences += [titled(_corrected(row, scale), title)]
            table = _calibration_table(data, run, method, title, scale)
            if method == "ensemble":
                tables.append(table)
            else:
                found.append(_calibration_chart(data, run, number, method, table, scale))
        notes += [f"{note[0].upper()}{note[1:]}." for note in run.calibration.notes]
    lead = (
        f"What re-weighting the labels by what a prompt prefers by itself makes of {scale.name}, averaged over cells: "
    )
    lead += f"{'; '.join(sentences)}{data.cell_draw}."
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
    own = data.cells[data.cells["run"] == run.name][[*keys, "label"]]
    corrected = cells[cells["method"] == method].rename(columns={"seed": "cell_seed"})
    top = own.merge(corrected, on=keys, how="inner").head(CHARTED)
    before, after = (top[name].to_numpy(dtype=float) for name in ("before", "after"))
    spec = charts.before_after(top["label"].tolist(), before, after, scale)
    summary = f"Two points for each of {plural(len(top), 'cell')}; all figures are in the table below."
    name = f"calibration-{number}" + ("" if method == "batch" else f"-{method.lower()}")
    return rows_chart(name, table.caption, summary, spec, len(top), table)


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
    name = titled(f"{scale.name.capitalize()} before and after {CORRECTIONS[method]}{data.cell_draw}", title)
    return Table(name, [Column("Cell", False), *map(Column, titles)], rows, folded=True)
