"""What `show` and `compare` print of a group: macro averages, its tasks, differences. Rounds only where people read."""

from __future__ import annotations

import json
import math

import pandas as pd
from rich.console import Console

from harness.analysis.macro import Macro
from harness.analysis.task_values import BEST, MEAN, STRATEGY
from harness.core.escaping import csv_text
from harness.reporting.console import say, write
from harness.reporting.terminal import json_rows, markdown, new_table, print_table

PAIRS_SHOWN = 20
"""Pairs in the table; with more, those of the best strategy."""


def write_group(console: Console, macro: Macro, fmt: str) -> None:
    """Print the macro averages in one of `harness.reporting.terminal.FORMATS`.

    json has everything, csv and md the figures of each task beside the averages; all in full precision.

    Args:
        console: standard output.
        macro: of the group.
        fmt: the format.
    """
    if fmt == "json":
        write(console, json.dumps(_facts(macro), ensure_ascii=False, indent=2) + "\n")
    elif fmt in ("csv", "md"):
        averages = macro.rows.assign(task="macro average")
        names = ["kind", "label", "task", "mean", "low", "high", "tasks_low", "tasks_high", "n"]
        frame = pd.concat([averages, macro.by_task], ignore_index=True).reindex(columns=names)
        write(console, csv_text(frame) if fmt == "csv" else markdown(frame))
    elif fmt == "table":
        _averages(console, macro)
        _tasks(console, macro)
        _notes(console, macro)
    else:
        raise ValueError(f"no format {fmt!r}")


def write_group_pairs(console: Console, macro: Macro, fmt: str) -> None:
    """Print the macro averages and their differences; formats as of `write_group`, csv has the pairs.

    Args:
        console: standard output.
        macro: of the group.
        fmt: the format.
    """
    if fmt == "json":
        write(console, json.dumps(_facts(macro), ensure_ascii=False, indent=2) + "\n")
    elif fmt == "csv":
        write(console, csv_text(macro.pairs))
    elif fmt == "md":
        write(console, markdown(macro.rows) + "\n" + markdown(macro.pairs))
    elif fmt == "table":
        _averages(console, macro)
        _pairs(console, macro)
        _notes(console, macro)
    else:
        raise ValueError(f"no format {fmt!r}")


def _facts(macro: Macro) -> dict[str, object]:
    frames = {"rows": macro.rows, "tasks": macro.tasks, "by_task": macro.by_task, "pairs": macro.pairs}
    return {name: json_rows(frame) for name, frame in frames.items()} | {
        "level": macro.level,
        "notes": list(macro.notes),
    }


def _averages(console: Console, macro: Macro) -> None:
    level = f"{100 * macro.level:g}%"
    table = new_table(console, f"Macro average over {len(macro.tasks)} tasks (* best, = may be the best, {level})")
    table.add_column("", no_wrap=True)
    table.add_column("strategy", overflow="fold")
    for name in ("average", f"{level} these tasks", f"{level} tasks like these"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in macro.rows.to_dict("records"):
        table.add_row(
            "*" if row["is_best"] else "=" if row["may_be_best"] else "",
            str(row["label"]),
            _number(row["mean"]),
            _interval(row["low"], row["high"]),
            _interval(row["tasks_low"], row["tasks_high"]),
            style="bold" if row["may_be_best"] else "",
        )
    console.print(table)


def _tasks(console: Console, macro: Macro) -> None:
    """A row per task: its samples, the best strategy of all tasks there, and the rows per model."""
    kinds = macro.rows[macro.rows["is_best"] | (macro.rows["kind"] != STRATEGY)]
    table = new_table(console, "Tasks")
    table.add_column("task", overflow="fold")
    for name in ("metric", "samples", *kinds["label"]):
        table.add_column(name, justify="right", no_wrap=name in ("metric", "samples"))
    values = macro.by_task.set_index(["kind", "label", "task"])["mean"]
    for task in macro.tasks.to_dict("records"):
        found = [values[row["kind"], row["label"], task["task"]] for row in kinds.to_dict("records")]
        table.add_row(
            str(task["task"]), str(task["metric"]), f"{task['n_samples']:,}", *(_number(value) for value in found)
        )
    print_table(console, table, ["metric", "samples"])


def _pairs(console: Console, macro: Macro) -> None:
    pairs = macro.pairs
    if pairs.empty:
        return
    level, family = f"{100 * macro.level:g}%", len(pairs)
    title = f"Pairs (p adjusted by Holm over {family}; p tasks: on tasks like these)"
    if family > PAIRS_SHOWN:
        best = macro.rows["label"][macro.rows["is_best"]].tolist()
        pairs = pairs[pairs["first"].isin(best) | pairs["second"].isin(best)]
        title = f"Pairs with the best (p adjusted by Holm over all {family}; p tasks: on tasks like these)"
    table = new_table(console, title)
    table.add_column("first", overflow="fold")
    table.add_column("second", overflow="fold")
    for name in ("difference", f"{level} these tasks", "p Holm", "p tasks", "ahead"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for row in pairs.to_dict("records"):
        verdict = ("first better" if row["difference"] > 0 else "second better") if row["differs"] else "open"
        table.add_row(
            str(row["first"]),
            str(row["second"]),
            f"{row['difference']:+.4f}",
            f"{row['low']:+.4f} {row['high']:+.4f}",
            _number(row["p_holm"]),
            _number(row["p_tasks"]),
            f"{row['ahead']}:{row['behind']}",
            verdict,
        )
    print_table(console, table, ["ahead", "p tasks"])


def _notes(console: Console, macro: Macro) -> None:
    words = {
        STRATEGY: "",
        BEST: "- best of each task: what to expect of each task's best prompt, corrected for picking it",
        MEAN: "- mean of all prompts: whatever prompts each task has, with equal weights",
    }
    for kind in macro.rows["kind"].unique():
        if words[kind]:
            say(console, words[kind])
    say(console, "- these tasks: other samples of each; tasks like these: other tasks, by the spread over tasks alone")
    for note in macro.notes:
        say(console, f"- {note}")


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else ""


def _interval(low: float, high: float) -> str:
    return f"{low:.4f}-{high:.4f}" if math.isfinite(low) else ""
