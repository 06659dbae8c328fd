"""Several tasks together: macro averages, the mean over tasks of each task's mean, and differences between them.

Two intervals answer two questions. Over samples: on these very tasks, with other samples of each (and, where seeds are
averaged, other draws); tasks are strata, whose variances add up. Over tasks: on other tasks like these, by Student's t
of the tasks' figures. Knows values per task; refuses to know run directories.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.intervals import LEVEL, half_width, seeds_interval, tail_probability
from harness.analysis.paired import TIE, best_of, holm, may_be_best
from harness.analysis.sampling_error import MeanError
from harness.analysis.strategies import labels_of
from harness.analysis.stratified import (
    combined,
    combined_difference,
    error_of,
    interval,
    interval_over_tasks,
    probability_over_tasks,
)
from harness.analysis.table import IntArray
from harness.analysis.task_values import BEST, MEAN, STRATEGY, Row, TaskValues, paired, per_model, shared_strategies
from harness.core.errors import ConfigError, did_you_mean

AXES = ["model", "template", "k"]
"""What makes a strategy that several tasks have."""


@dataclass(frozen=True)
class Macro:
    """Macro averages of a group."""

    rows: pd.DataFrame
    """`kind`, `label`, `model`, `template`, `k`, `mean`, `low`, `high` (over samples), `tasks_low`, `tasks_high` (over
    tasks), `is_best`, `may_be_best` (among strategies); strategies best first."""
    by_task: pd.DataFrame
    """One row per row of `rows` and task: `kind`, `label`, `task`, `mean`, `low`, `high`, `n`."""
    tasks: pd.DataFrame
    """Per task: `task`, `metric`, `n_samples`, `n_strategies`."""
    pairs: pd.DataFrame
    """Per pair of rows of one kind: `first`, `second`, `difference`, `low`, `high`, `p`, `p_holm`, `differs`,
    `tasks_low`, `tasks_high`, `p_tasks`, `ahead` and `behind` (tasks)."""
    level: float
    notes: tuple[str, ...]


def macro_averages(tasks: Sequence[TaskValues], level: float = LEVEL, notes: Sequence[str] = ()) -> Macro:
    """The macro averages of several tasks.

    Args:
        tasks: at least one.
        level: of all intervals; 1 - level is the family-wise error of the pairs.
        notes: of whoever read them, to stand first.
    """
    rows = [*shared_strategies(tasks), *per_model(tasks)]
    frame = pd.DataFrame([{"kind": r.kind, "model": r.model, "template": r.template, "k": r.k} for r in rows])
    frame["k"] = frame["k"].astype("Int64")
    frame.insert(1, "label", _labels(frame))
    clusters = [task.clusters for task in tasks]
    errors = [[error_of(values, own) for values, own in zip(row.values, clusters, strict=True)] for row in rows]
    frame = pd.concat([frame, pd.DataFrame([_mean_row(own, level) for own in errors])], axis=1)
    by_task = pd.DataFrame(
        {"kind": row.kind, "label": label, "task": task.label, **_task_figures(error, level)}
        for row, label, own in zip(rows, frame["label"], errors, strict=True)
        for task, error in zip(tasks, own, strict=True)
    )
    pairs = _pairs(rows, frame, clusters, level)
    frame["is_best"], frame["may_be_best"] = _best(frame, pairs, level)
    if len(pairs):
        pairs["first"], pairs["second"] = (pairs[name].map(frame["label"]) for name in ("first", "second"))
    facts = [
        {
            "task": task.label,
            "metric": task.metric,
            "n_samples": max(len(values) for seeded in task.strategies.values() for values in seeded.values()),
            "n_strategies": len(task.strategies),
        }
        for task in tasks
    ]
    order = {STRATEGY: 0, BEST: 1, MEAN: 2}
    frame = frame.assign(order=frame["kind"].map(order)).sort_values(
        ["order", "mean"], ascending=[True, False], kind="stable", ignore_index=True
    )
    return Macro(
        frame.drop(columns="order"), by_task, pd.DataFrame(facts), pairs, level, (*notes, *_notes(tasks, rows))
    )


def against(macro: Macro, baseline: str) -> Macro:
    """The macro averages with the pairs of one row alone, which comes second in each.

    Args:
        macro: with all pairs.
        baseline: a row's label.

    Raises:
        ConfigError: no such row.
    """
    labels = macro.rows["label"].tolist()
    if baseline not in labels:
        raise ConfigError(f"no strategy is '{baseline}'{did_you_mean(baseline, labels)}")
    pairs = macro.pairs
    if pairs.empty:
        return macro
    pairs = pairs[(pairs["first"] == baseline) | (pairs["second"] == baseline)].reset_index(drop=True)
    turned = pairs["first"] == baseline
    swapped = pairs.rename(columns=_TURNED)[pairs.columns]
    for name in ("difference", "low", "high", "tasks_low", "tasks_high"):
        swapped[name] = -swapped[name]
    pairs = pairs.where(~turned, swapped)
    pairs["p_holm"] = holm(pairs["p"].to_numpy(dtype=float))
    pairs["differs"] = pairs["p_holm"] <= 1 - macro.level + 1e-12
    return replace(macro, pairs=pairs)


_TURNED = {
    "first": "second", "second": "first", "low": "high", "high": "low", "tasks_low": "tasks_high",
    "tasks_high": "tasks_low", "ahead": "behind", "behind": "ahead",
}  # fmt: skip


def _labels(frame: pd.DataFrame) -> list[str]:
    """The axes that differ among strategies; of the other rows their kind, and the model where there are several."""
    labels = list(frame["kind"])
    strategies = frame[frame["kind"] == STRATEGY]
    if len(strategies):
        for place, label in zip(strategies.index, labels_of(strategies[AXES]), strict=True):
            labels[place] = label
    others = frame[frame["kind"] != STRATEGY]
    several = others["model"].nunique() > 1
    for place, model in zip(others.index, others["model"], strict=True):
        labels[place] += f", {model}" if several else ""
    return labels


def _mean_row(errors: Sequence[MeanError], level: float) -> dict[str, float]:
    error = combined(errors)
    low, high = interval(error, level)
    ends = interval_over_tasks(np.array([one.value for one in errors]), level)
    return {"mean": error.value, "low": low, "high": high, "tasks_low": ends[0], "tasks_high": ends[1]}


def _task_figures(error: MeanError, level: float) -> dict[str, float]:
    low, high = interval(error, level)
    return {"mean": error.value, "low": low, "high": high, "n": error.n}


def _pairs(rows: Sequence[Row], frame: pd.DataFrame, clusters: Sequence[IntArray | None], level: float) -> pd.DataFrame:
    found: list[dict[str, Any]] = [
        {"first": one, "second": other, **_difference(rows[one], rows[other], clusters, level)}
        for one, other in itertools.combinations(range(len(rows)), 2)
        if rows[one].kind == rows[other].kind
    ]
    pairs = pd.DataFrame(found)
    if len(pairs):
        pairs.insert(0, "kind", [frame["kind"][place] for place in pairs["first"].tolist()])
        pairs["p_holm"] = holm(pairs["p"].to_numpy())
        pairs["differs"] = pairs["p_holm"] <= 1 - level + 1e-12
    return pairs


def _difference(first: Row, second: Row, clusters: Sequence[IntArray | None], level: float) -> dict[str, float]:
    """A paired difference: task by task on the same samples, then the mean."""
    errors = [
        error_of(paired(one, other), own) for one, other, own in zip(first.values, second.values, clusters, strict=True)
    ]
    steady = combined_difference(errors)
    half = half_width(steady, level)
    means = np.array([one.value for one in errors])
    over_tasks = seeds_interval(means, level)
    return {
        "difference": steady.value,
        "low": steady.value - half,
        "high": steady.value + half,
        "p": tail_probability(steady, steady.value),
        "tasks_low": over_tasks.low,
        "tasks_high": over_tasks.high,
        "p_tasks": probability_over_tasks(means),
        "ahead": int((means > TIE).sum()),
        "behind": int((means < -TIE).sum()),
    }


def _best(frame: pd.DataFrame, pairs: pd.DataFrame, level: float) -> tuple[list[bool], list[bool]]:
    is_strategy = (frame["kind"] == STRATEGY).to_numpy()
    count = int(is_strategy.sum())
    if not count or frame["mean"][is_strategy].isna().all():
        return [False] * len(frame), [False] * len(frame)
    best = best_of(frame["mean"].where(is_strategy).to_numpy(dtype=float))
    own = pairs[pairs["kind"] == STRATEGY] if len(pairs) else pairs
    group = may_be_best(own, count, level) if count > 1 else np.ones(1, dtype=bool)
    inside = [bool(is_strategy[row] and (group[row] or row == best)) for row in range(len(frame))]
    return [row == best for row in range(len(frame))], inside


def _largest(task: TaskValues) -> float:
    """The largest score of any sample."""
    return max(
        (float(np.nanmax(v, initial=0.0)) for one in task.strategies.values() for v in one.values()), default=0.0
    )


def _notes(tasks: Sequence[TaskValues], rows: Sequence[Row]) -> list[str]:
    notes = []
    metrics = list(dict.fromkeys(task.metric for task in tasks))
    if len(metrics) > 1:
        notes.append(f"the average is over different metrics: {', '.join(metrics)}")
    percent = [task.label for task in tasks if _largest(task) > 1]
    if percent and len(percent) < len(tasks):
        notes.append(
            f"scores of {', '.join(percent)} go beyond 1, those of the other tasks do not: the average is over "
            "different scales, and the tasks with large scores decide it"
        )
    shared = sum(row.kind == STRATEGY for row in rows)
    most = max(len(task.strategies) for task in tasks)
    if not shared:
        notes.append("no template and K has the same names in all tasks, so that no strategy has an average")
    elif shared < most:
        notes.append(
            f"{shared} of up to {most} strategies are in all tasks, by model, template and K; rows per model have all"
        )
    drawn = [one for task in tasks for (_, _, k), one in task.strategies.items() if k > 0]
    if any(len(one) == 1 for one in drawn):
        notes.append("K > 0 with one seed: this demonstration draw")
    if len(tasks) < 2:
        notes.append("one task: there is no interval over tasks")
    return notes
