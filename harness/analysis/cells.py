"""One row of figures per cell, and over the seeds of a strategy.

Estimands: accuracy is the share of right predictions among the scored samples of a cell;
failed samples count as attempted and are never taken as wrong or right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_integer_dtype

KEYS = ["model", "task", "template", "k", "seed"]
COLUMNS = [
    "model",
    "task",
    "template",
    "k",
    "seed",
    "prediction",
    "gold",
    "greedy_prediction",
    "off_label_mass",
]
"""What `cell_figures` needs of the records."""
REASONING = "reasoning_length"
"""The figure on what was thought, of cells whose template says `thinking: on`."""
Metric = Callable[[Sequence[int], Sequence[int]], float]


def of_prompts(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of prompts alone: references have no template, and what is asked of templates and K is not about them.

    Args:
        frame: with `template`, `k` and `seed`, of cells or records.
    """
    is_prompt = frame["template"].notna()
    if is_prompt.all():
        return frame
    kept = frame[is_prompt]
    numbers = [name for name in ("k", "seed") if name in kept and is_integer_dtype(kept[name])]
    whole = [name for name in numbers if kept[name].notna().all()]
    return kept.astype(dict.fromkeys(whole, "int64"))


def is_zero_shot(frame: pd.DataFrame) -> pd.Series:
    """Which rows are of prompts without demonstrations."""
    return (frame["k"] == 0).fillna(False).astype(bool)


def frame_of_cells(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of figures as a frame; where references have no K or seed, the others' stay whole numbers."""
    frame = pd.DataFrame(rows)
    for name in ("k", "seed"):
        if name in frame and frame[name].isna().any():
            frame[name] = pd.array([row[name] for row in rows], dtype="Int64")
    return frame


def wilson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; (nan, nan) without observations.

    Source: Wilson 1927, Journal of the American Statistical Association 22(158).
    """
    if n == 0:
        return float("nan"), float("nan")
    share, z = successes / n, NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low = 0.0 if successes == 0 else centre - half
    return low, 1.0 if successes == n else centre + half


def macro_f1(gold: Sequence[int], predicted: Sequence[int], n_classes: int) -> float:
    """Unweighted mean over classes of 2TP / (2TP + FP + FN); a class that never occurs in
    gold or prediction is left out."""
    truth, guess = np.asarray(gold), np.asarray(predicted)
    values = []
    for label in range(n_classes):
        hits = int(((truth == label) & (guess == label)).sum())
        total = int((truth == label).sum() + (guess == label).sum())
        if total:
            values.append(2 * hits / total)
    return float(np.mean(values)) if values else float("nan")


def cell_figures(records: pd.DataFrame, n_classes: int, metrics: Mapping[str, Metric] | None = None) -> pd.DataFrame:
    """Figures per cell, in the order in which cells first occur.

    Args:
        records: columns `COLUMNS`; a null prediction marks a failed sample.
        n_classes: of the task.
        metrics: further figures of (gold, predicted) over scored samples.
    """
    cells = records.groupby(KEYS, sort=False, observed=True, dropna=False)
    return frame_of_cells([figures_of_cell(cell, n_classes, metrics) for _, cell in cells])


def figures_of_cell(cell: pd.DataFrame, n_classes: int, metrics: Mapping[str, Metric] | None = None) -> dict[str, Any]:
    """One row of `cell_figures`, from the records of one cell; there is at least one."""
    scored = cell[cell["prediction"].notna()]
    gold, predicted = scored["gold"].astype(int).to_numpy(), scored["prediction"].astype(int).to_numpy()
    n = len(scored)
    right = int((gold == predicted).sum())
    low, high = wilson_interval(right, n)
    row = names_of_cell(cell)
    # A reference generates no token that could be a label.
    is_greedy = bool(n) and row["template"] is not None
    row |= {
        "n_attempted": len(cell),
        "n_scored": n,
        "n_failed": len(cell) - n,
        "accuracy": right / n if n else float("nan"),
        "low": low,
        "high": high,
        "macro_f1": macro_f1(gold.tolist(), predicted.tolist(), n_classes),
        "predicted_positive_share": float((predicted == 1).mean()) if n and n_classes == 2 else float("nan"),
        "off_label_mass": float(scored["off_label_mass"].mean()) if n else float("nan"),
        "greedy_accuracy": _greedy_accuracy(scored) if is_greedy else float("nan"),
    }
    for name, metric in (metrics or {}).items():
        row[name] = metric(gold.tolist(), predicted.tolist()) if n else float("nan")
    return row


def reasoning_figures(cell: pd.DataFrame) -> dict[str, float]:
    """Mean characters of what was thought before the answers; nothing of a cell that was not to think.

    Args:
        cell: its records, with the column `reasoning`.
    """
    lengths = cell["reasoning"].dropna().str.len()
    return {REASONING: float(lengths.mean())} if len(lengths) else {}


def names_of_cell(cell: pd.DataFrame) -> dict[str, Any]:
    """`KEYS` of the records of one cell; None where a reference has none."""
    first = {name: cell[name].head(1).tolist()[0] for name in KEYS}
    return {name: None if pd.isna(value) else value for name, value in first.items()}


def _greedy_accuracy(scored: pd.DataFrame) -> float:
    """The lecture's measure: a generated token that is no label counts as wrong."""
    right = (scored["greedy_prediction"] == scored["gold"]).fillna(False)
    return float(right.astype(bool).mean())


def main_figure(cells: pd.DataFrame) -> str:
    """The column that cells are compared by: accuracy, or the first metric of generated answers."""
    if "accuracy" in cells:
        return "accuracy"
    return next(str(name) for name in cells if f"{name}_low" in cells)


def over_seeds(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread of the main figure over the seeds of each (model, task, template, K).

    `spread` is the largest minus the smallest figure; `n_seeds` counts seeds with one.
    """
    keys = ["model", "task", "template", "k"]
    groups = cells.groupby(keys, sort=False, observed=True, dropna=False)[main_figure(cells)]
    table = groups.agg(n_seeds="count", mean="mean", least="min", most="max").reset_index()
    table["spread"] = table["most"] - table["least"]
    return table
