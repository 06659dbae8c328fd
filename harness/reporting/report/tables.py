"""The tables of a page, from frames of figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from harness.analysis.confusion import Confusion
from harness.reporting.report.blocks import Cell, Column, Table
from harness.reporting.report.charts import effect_name
from harness.reporting.report.gathering import ReportData
from harness.reporting.report.wording import NOTHING, Scale, count, decimals, last_part, probability, share

PAIRS = 500
"""Rows of the table of pairs at most; with more, it has those of the best."""
STATUS = {"best": "★ best", "like": "● may be best", "": "worse"}


def ranking_table(data: ReportData, scale: Scale) -> Table:
    """Every strategy, best first."""
    compared = data.comparison is not None
    extra = _answer_columns(data) if data.is_generated else _class_columns(data)
    rows = []
    for place, row in enumerate(data.strategies.to_dict("records"), 1):
        mark = "best" if row["is_best"] else "like" if row["may_be_best"] else ""
        cells = [
            Cell(str(row["label"]), mark=mark, pick=(-1, place - 1, -1)),
            Cell(str(place), float(place)),
            Cell(scale.value(row["mean"]), row["mean"]),
            Cell(scale.interval(row["low"], row["high"])),
            Cell(f"{count(row['n_scored'])} / {count(row['n_attempted'])}"),
        ]
        if compared:
            cells += [Cell(STATUS[mark], mark=mark), Cell(share(row["share_best"]), row["share_best"])]
        cells += [Cell(scale.value(row[c]) if is_scaled else decimals(row[c], 1), row[c]) for c, _, is_scaled in extra]
        cells.append(Cell(count(row["tokens"]), row["tokens"]))
        rows.append(cells)
    columns = [Column("Strategy", False), Column("Rank"), Column(scale.name.capitalize())]
    columns += [Column(f"{100 * data.level:g}% interval"), Column("Scored / attempted")]
    if compared:
        columns += [Column("Verdict", False), Column("Best in resamples")]
    columns += [Column(title) for _, title, _ in extra]
    columns.append(Column("Tokens"))
    return Table(f"Strategies by {scale.name}; tokens: mean per prompt{data.draw}", columns, rows)


def _class_columns(data: ReportData) -> list[tuple[str, str, bool]]:
    found = [("macro_f1", "Macro F1", True)]
    if data.strategies["off_label_mass"].notna().any():
        found.append(("off_label_mass", "Off-label mass", True))
    return found


def _answer_columns(data: ReportData) -> list[tuple[str, str, bool]]:
    metrics = [m for m in data.runs[0].manifest.get("answer_metrics", []) if m != data.metric]
    found = [(name, name.replace("_", " ").capitalize(), True) for name in metrics]
    return [
        *found,
        ("empty_share", "Empty", True),
        ("truncated_share", "Cut off", True),
        ("answer_length", "Characters", False),
    ]


def pairs_table(data: ReportData, scale: Scale) -> Table:
    """Pairs of strategies, those of the best where there are many."""
    assert data.comparison is not None
    pairs, best = data.comparison.pairs, data.comparison.best
    caption = f"Pairs of strategies: differences in {scale.name}{' in percentage points' if scale.percent else ''}"
    if len(pairs) > PAIRS:
        pairs = pairs[(pairs["first"] == best) | (pairs["second"] == best)]
        caption += f", those with the best only (p by Holm over all {count(len(data.comparison.pairs))})"
    caption += data.draw
    place = {label: row for row, label in enumerate(data.strategies["label"])}
    rows = []
    for row in pairs.to_dict("records"):
        sign = -1.0 if row["second"] == best else 1.0
        first, second = (row["second"], row["first"]) if sign < 0 else (row["first"], row["second"])
        low, high = sorted((sign * row["low"], sign * row["high"])) if math.isfinite(row["low"]) else (math.nan,) * 2
        difference = sign * row["difference"]
        verdict = ("first better" if difference > 0 else "second better") if row["differs"] else "open"
        more = row["more_samples"]
        rows.append(
            [
                Cell(str(first)),
                Cell(str(second)),
                Cell(scale.difference(difference), difference, pick=(place[first], place[second], -1)),
                Cell(scale.change(low, high)),
                Cell(probability(row["p_holm"]), row["p_holm"]),
                Cell(verdict, mark="like" if row["differs"] else "quiet"),
                Cell(NOTHING if pd.isna(more) else count(more)),
                Cell(count(row["n"])),
            ]
        )
    titles = ("Difference", f"{100 * data.level:g}% interval", "p (Holm)")
    columns = [Column("First", False), Column("Second", False), *map(Column, titles), Column("Verdict", False)]
    return Table(caption, [*columns, Column("More samples to settle"), Column("n")], rows, folded=True)


def variance_table(variance: pd.DataFrame, caption: str) -> Table:
    """Components of one model."""
    rows = [
        [
            Cell(effect_name(str(row["effect"]))),
            Cell(share(row["share"]), row["share"]),
            Cell(share(row["share_se"]), row["share_se"]),
            Cell(decimals(row["component"], 5), row["component"]),
            Cell(decimals(row["component_se"], 5), row["component_se"]),
            Cell(count(row["n_samples"])),
        ]
        for row in variance.to_dict("records")
    ]
    titles = ("Share", "s.e.", "Component", "s.e.", "Samples")
    return Table(caption, [Column("Effect", False), *map(Column, titles)], rows, folded=True)


def sensitivity_table(frame: pd.DataFrame, scale: Scale, level: float) -> Table:
    """Best, worst and mean over templates, per K."""
    names = [name for name in ("run", "model") if frame[name].nunique() > 1]
    rows = []
    for row in frame.to_dict("records"):
        what = " ".join([*(last_part(str(row[name])) for name in names), f"K={row['k']}"])
        rows.append(
            [
                Cell(what),
                Cell(str(row["n_templates"])),
                *(Cell(scale.value(row[name]), row[name]) for name in ("best", "worst", "mean")),
                Cell(scale.interval(row["mean_low"], row["mean_high"])),
                *(Cell(scale.difference(row[c])[1:], row[c]) for c in ("spread", "spread_by_chance")),
                Cell(count(row["n"])),
            ]
        )
    titles = (
        "Templates",
        "Best",
        "Worst",
        "Mean",
        f"{100 * level:g}% interval of the mean",
        "Spread",
        "By chance",
        "n",
    )
    caption = (
        "How much the wording matters: over templates (by chance: the spread if all were equally good, on other "
        "samples and seeds)"
    )
    return Table(caption, [Column("K", False), *map(Column, titles)], rows)


def confusion_table(label: str, matrix: Confusion, names: Sequence[str]) -> Table:
    """Gold against predicted classes of one strategy, shaded by the share of the gold class."""
    off = bool(matrix.counts[:, -1].sum())
    rows = []
    for gold, name in enumerate(names):
        total = int(matrix.counts[gold].sum())
        shown = matrix.counts[gold].tolist() if off else matrix.counts[gold, :-1].tolist()
        cells = [Cell(count(n), float(n), shade=n / total if total else 0.0) for n in shown]
        rows.append([Cell(name), *cells])
    columns = [Column("Gold \\ predicted", False), *(Column(name) for name in names)]
    return Table(label, [*columns, *([Column("no label")] if off else [])], rows, small=True)


def class_table(found: Sequence[tuple[str, Confusion]], names: Sequence[str], draw: str) -> Table:
    """Recall and share of every class, per cell; `draw` says what draws of demonstrations they hold for."""
    rows = []
    for label, matrix in found:
        recalls = [matrix.recall(i) for i in range(len(names))]
        cells: list[Cell] = [Cell(label)]
        for i, recall in enumerate(recalls):
            cells.append(Cell(share(recall.value), recall.value))
            cells.append(Cell(f"{share(recall.low)} to {share(recall.high)}" if recall.n else NOTHING))
            cells.append(Cell(share(float(matrix.predicted_share[i])), float(matrix.predicted_share[i])))
        cells += [
            Cell(decimals(matrix.mcc, 3), matrix.mcc),
            Cell(share(1 - matrix.answered)),
            Cell(count(matrix.n_scored)),
        ]
        rows.append(cells)
    columns = [Column("Cell", False)]
    for name in names:
        columns += [Column(f"Recall of {name}"), Column("95% interval"), Column(f"Predicted {name}")]
    columns += [Column("MCC"), Column("No label"), Column("n")]
    return Table(f"Recall and predicted share of each class{draw}", columns, rows, folded=True)
