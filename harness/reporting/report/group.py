"""The report on a group: one page on its macro averages, and a report on each task beside it.

Without charts of its own script: intervals are drawn by the style sheet alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.analysis.grouped import group_figures
from harness.analysis.macro import Macro
from harness.analysis.task_values import BEST, MEAN, STRATEGY
from harness.core.errors import ConfigError
from harness.reporting.report.blocks import CHARTED, Cell, Column, Section, Table
from harness.reporting.report.build import NAME, write_page, write_report
from harness.reporting.report.strip import Bar, Tick
from harness.reporting.report.wording import NOTHING, Scale, count, last_part, plural, probability, scale_of
from harness.results.groups import GroupRun
from harness.results.store import RunStore

TICKS = 5
"""Of the axis."""


def write_group_report(run_dir: str, runs: Sequence[GroupRun], out: str | None = None) -> Path:
    """Write the page on a group, and the report of each of its runs into the run's directory.

    Args:
        run_dir: the group's folder.
        runs: its runs.
        out: the page's file; None: `report.html` in a local group's folder, else in the working directory.

    Raises:
        RunDirError: no task has records, or a run directory is damaged.
        ConfigError: `out` is a folder, or in none; or of runs that are not on this machine.
    """
    is_local = RunStore(run_dir).is_local
    target = Path(out) if out is not None else Path(run_dir) / NAME if is_local else Path(NAME)
    if target.is_dir() or not target.parent.is_dir():
        what = "is a folder" if target.is_dir() else "has no folder to stand in"
        raise ConfigError(f"the report '{target}' {what}; set --out to a file in a folder that is there")
    macro = group_figures(runs)
    begun = set(macro.tasks["task"])
    links = []
    for one in runs:
        href = ""
        if one.label in begun:
            folder = last_part(one.run_dir.partition("?")[0])
            place = None if is_local else str(target.parent / f"{folder}.html")
            written = write_report([one.run_dir], place)
            beside = is_local and target.parent.resolve() == Path(run_dir).resolve()
            href = quote(f"{folder}/{NAME}") if beside else quote(written.resolve().as_posix())
        links.append((one.label, href))
    text = render_group(last_part(run_dir.partition("?")[0]), macro, links)
    write_page(target, text, is_named=out is not None)
    return target


def render_group(name: str, macro: Macro, links: Sequence[tuple[str, str]]) -> str:
    """The page of a group.

    Args:
        name: of the group.
        macro: its figures.
        links: per task its label and where its own report is; an empty text for none.
    """
    scale = scale_of("macro average", macro.by_task["mean"].tolist())
    rows = macro.rows
    strategies = rows[rows["kind"] == STRATEGY]
    shown = rows[(rows["kind"] != STRATEGY) | rows.index.isin(strategies.index[:CHARTED])]
    first = (strategies if len(strategies) else rows).iloc[0]
    alike = int(strategies["may_be_best"].sum()) - 1
    if len(strategies):
        others = plural(len(strategies) - 1, "other strategy", "other strategies")
        verdict = f"{count(alike)} of the {others} that all tasks have may be the best as well (95%)."
    else:
        verdict = "No strategy has the same name in all tasks; what to expect where each task takes its best prompt."
    least, most = _ends(shown["low"].tolist() + shown["high"].tolist() + shown["mean"].tolist())
    place = _Place(least, most)
    bars = [
        Bar(
            str(row["label"]),
            f"{scale.value(row['mean'])} ({scale.interval(row['low'], row['high'])})",
            place.of(row["low"]),
            place.of(row["mean"]),
            place.of(row["high"]),
            "best" if row["is_best"] else "like" if row["may_be_best"] else "other",
        )
        for row in shown.to_dict("records")
        if math.isfinite(row["mean"]) and math.isfinite(row["low"])
    ]
    values = [least + step * (most - least) / (TICKS - 1) for step in range(TICKS)]
    axis = [Tick(place.of(value), scale.tick(value)) for value in values]
    package = __package__ or ""
    templates = Environment(
        loader=PackageLoader(package, "assets"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return templates.get_template("group.html.jinja").render(
        title=f"{name}: {plural(len(macro.tasks), 'task')}",
        heading="Highest over tasks" if len(strategies) else "Over tasks",
        best=first["label"],
        verdict=verdict,
        value=scale.value(first["mean"]),
        interval=f"{100 * macro.level:g}% interval {scale.interval(first['low'], first['high'])}, on these tasks",
        bars=bars,
        axis=axis,
        sections=[_averages(macro, scale), _tasks(macro), *_differences(macro, scale)],
        links=links,
        css=Markup(files(package).joinpath("assets", "page.css").read_text(encoding="utf-8")),  # noqa: S704
    )


class _Place:
    """From a value to its place on the strip, in percent."""

    def __init__(self, least: float, most: float) -> None:
        self.least, self.width = least, (most - least) or 1.0

    def of(self, value: float) -> float:
        return round(100 * (value - self.least) / self.width, 3)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    pad = 0.04 * (max(known) - min(known)) or 0.01
    return min(known) - pad, max(known) + pad


def _averages(macro: Macro, scale: Scale) -> Section:
    level = f"{100 * macro.level:g}%"
    cells = []
    for row in macro.rows.to_dict("records"):
        mark = "best" if row["is_best"] else "like" if row["may_be_best"] else ""
        cells.append(
            [
                Cell(str(row["label"]), mark=mark),
                Cell(scale.value(row["mean"]), row["mean"] if math.isfinite(row["mean"]) else None),
                Cell(scale.interval(row["low"], row["high"])),
                Cell(scale.interval(row["tasks_low"], row["tasks_high"])),
            ]
        )
    columns = [Column("Strategy", False), Column("Macro average")]
    columns += [Column(f"{level} on these tasks"), Column(f"{level} on tasks like these")]
    lead = "The mean over tasks of each task's mean, every task with the same weight."
    notes = [
        "On these tasks: other samples of each task, and other draws where seeds are averaged. On tasks like these: "
        "other tasks, by Student's t of the tasks' means; with few tasks it is wide.",
        f"{BEST.capitalize()}: what to expect of each task's best prompt, corrected for picking it. "
        f"{MEAN.capitalize()}: whatever prompts each task has, with equal weights.",
        *(f"{note[0].upper()}{note[1:]}." for note in macro.notes),
    ]
    table = Table("Macro averages", columns, cells)
    return Section("averages", "Macro averages", "Averages", lead, tables=[table], notes=notes)


def _tasks(macro: Macro) -> Section:
    """Tasks against the rows of the averages, as numbers on a shade."""
    labels = [(row["kind"], row["label"]) for row in macro.rows.to_dict("records") if row["kind"] != STRATEGY] + [
        ("strategy", label) for label in macro.rows["label"][macro.rows["kind"] == STRATEGY].head(CHARTED)
    ]
    keys = zip(*(macro.by_task[name] for name in ("kind", "label", "task")), strict=True)
    values = dict(zip(keys, macro.by_task["mean"].tolist(), strict=True))
    rows = []
    for task in macro.tasks.to_dict("records"):
        own = scale_of(str(task["metric"]), macro.by_task["mean"][macro.by_task["task"] == task["task"]].tolist())
        found = [values[kind, label, task["task"]] for kind, label in labels]
        cells = [
            Cell(own.value(mean), mean, shade=mean if own.percent else None) if math.isfinite(mean) else Cell(NOTHING)
            for mean in found
        ]
        rows.append([Cell(str(task["task"])), Cell(own.name), Cell(count(task["n_samples"])), *cells])
    columns = [
        Column("Task", False),
        Column("Metric", False),
        Column("Samples"),
        *(Column(label) for _, label in labels),
    ]
    lead = "Each task's own means: where an average hides that tasks disagree, it shows here."
    return Section("tasks", "Tasks", "Tasks", lead, tables=[Table("Means by task", columns, rows)])


def _differences(macro: Macro, scale: Scale) -> list[Section]:
    pairs = macro.pairs
    if pairs.empty:
        return []
    best = macro.rows["label"][macro.rows["is_best"]].tolist()
    own = pairs[pairs["first"].isin(best) | pairs["second"].isin(best) | (pairs["kind"] != STRATEGY)]
    settled = int(pairs["differs"].sum())
    rows = [
        [
            Cell(str(row["first"])),
            Cell(str(row["second"])),
            Cell(scale.difference(row["difference"]), row["difference"] if math.isfinite(row["difference"]) else None),
            Cell(scale.change(row["low"], row["high"])),
            Cell(probability(row["p_holm"])),
            Cell(probability(row["p_tasks"])),
            Cell(f"{row['ahead']} : {row['behind']}"),
        ]
        for row in own.to_dict("records")
    ]
    titles = ("Difference", f"{100 * macro.level:g}% on these tasks", "p (Holm)", "p on tasks like these")
    columns = [Column("First", False), Column("Second", False), *map(Column, titles), Column("Tasks ahead : behind")]
    lead = f"Paired on the same samples, task by task: {settled} of {plural(len(pairs), 'pair')} are shown to differ."
    return [
        Section("differences", "Differences", "Differences", lead, tables=[Table("Pairs with the best", columns, rows)])
    ]
