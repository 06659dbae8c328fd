"""What the strategies of several tasks made of each task's samples, and what is averaged over tasks.

Knows values per task; refuses to know estimates and run directories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis.failures import common_samples
from harness.analysis.selection import judged_values
from harness.analysis.table import FloatArray, IntArray, ValueTable

STRATEGY, BEST, MEAN = "strategy", "best of each task", "mean of all prompts"
"""Kinds of rows: one (model, template, K) that all tasks have; per model what to expect of the best one of each task;
per model the mean over all of each task's, whatever they are."""
Seeded = Mapping[int | None, FloatArray]
"""Seed to (samples,) values; None where there are no draws."""


@dataclass(frozen=True)
class TaskValues:
    """What one task's strategies made of its samples."""

    label: str
    metric: str
    strategies: Mapping[tuple[str, str, int], Seeded]
    """By (model, template, K), in the order of the grid."""
    clusters: IntArray | None

    @classmethod
    def of(cls, label: str, metric: str, table: ValueTable) -> TaskValues:
        """From the table of a run; references, which are no prompts, are left out."""
        found: dict[tuple[str, str, int], dict[int | None, FloatArray]] = {}
        for row, cell in enumerate(table.cells.to_dict("records")):
            if not pd.isna(cell["template"]):
                seed = None if pd.isna(cell["seed"]) else int(cell["seed"])
                found.setdefault((str(cell["model"]), str(cell["template"]), int(cell["k"])), {})[seed] = table.values[
                    row
                ]
        return cls(label, metric, found, table.clusters)

    @property
    def models(self) -> list[str]:
        """Those that it was run with."""
        return list(dict.fromkeys(model for model, _, _ in self.strategies))


@dataclass(frozen=True)
class Row:
    """One line of the macro table, with its values on every task."""

    kind: str
    model: str
    template: str | None
    k: int | None
    values: tuple[Seeded, ...]


def shared_strategies(tasks: Sequence[TaskValues]) -> list[Row]:
    """The strategies that all tasks have, in the order of the first."""
    shared = [key for key in tasks[0].strategies if all(key in task.strategies for task in tasks)]
    return [Row(STRATEGY, *key, tuple(task.strategies[key] for task in tasks)) for key in shared]


def per_model(tasks: Sequence[TaskValues]) -> list[Row]:
    """What to expect of each task's best, and the mean over its prompts, for the models that all tasks have."""
    rows = []
    for kind in (BEST, MEAN):
        for model in tasks[0].models:
            if all(model in task.models for task in tasks):
                values: tuple[Seeded, ...] = tuple({None: _of_model(task, model, kind)} for task in tasks)
                rows.append(Row(kind, model, None, None, values))
    return rows


def _of_model(task: TaskValues, model: str, kind: str) -> FloatArray:
    """Per sample the mean over a model's prompts, or what the best of them is worth; NaN where not all have a value."""
    seeded = [found for (name, _, _), found in task.strategies.items() if name == model]
    means = np.array([np.mean(list(one.values()), axis=0) for one in seeded])
    known, ranked = common_samples(np.isfinite(means))
    found = np.full(means.shape[1], np.nan)
    if known.any():
        kept = means[ranked][:, known]
        clusters = None if task.clusters is None else np.unique(task.clusters[known], return_inverse=True)[1]
        found[known] = kept.mean(axis=0) if kind == MEAN else judged_values(kept, clusters)
    return found


def paired(one: Seeded, other: Seeded) -> Seeded:
    """Differences per sample under each seed that both have; K = 0 is the same under all."""
    if None in one:
        return {seed: one[None] - values for seed, values in other.items()}
    if None in other:
        return {seed: values - other[None] for seed, values in one.items()}
    shared = [seed for seed in one if seed in other]
    nothing = np.full_like(next(iter(one.values())), np.nan)
    return {seed: one[seed] - other[seed] for seed in shared} or {None: nothing}
