"""One row of figures per cell of generated answers.

Estimands: each metric is the mean of its values over the answered samples of a cell; its
interval takes samples of one cluster (a paragraph, a document) as dependent. Failed samples
count as attempted and are never taken as wrong or right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.cells import KEYS, frame_of_cells, names_of_cell
from harness.analysis.intervals import mean_interval
from harness.analysis.table import cluster_codes
from harness.core.task import NO_CLASS
from harness.prompts.chats import begins_reasoning

NO_LABEL, UNASKED_REASONING = "no_label_share", "unasked_reasoning_share"
"""Shares of what models wrote: answers that are no label, of tasks with classes; and answers that begin with a thinking
block although the template asks for none, so that it counts as the answer."""
COLUMNS = [*KEYS, "sample_id", "answer", "finish_reason", "answer_values"]
"""What `answer_figures` needs of the records."""


def answer_figures(records: pd.DataFrame, metrics: Sequence[str], clusters: Mapping[str, str]) -> pd.DataFrame:
    """Figures per cell, in the order in which cells first occur.

    Args:
        records: columns `COLUMNS`; null `answer_values` mark a failed sample.
        metrics: names of the answer values, in order.
        clusters: sample id to cluster; an empty text stands for none.

    Returns:
        Per cell its counts, each metric with `_low` and `_high` (95%, cluster-robust), mean
        answer length in characters, the shares of empty answers and of answers that hit the
        token limit.
    """
    cells = records.groupby(KEYS, sort=False, observed=True, dropna=False)
    return frame_of_cells([answers_of_cell(cell, metrics, clusters) for _, cell in cells])


def written_figures(cell: pd.DataFrame) -> dict[str, float]:
    """What is wrong with what a model wrote, as shares of the answers of a cell; nothing of a reference.

    Args:
        cell: its records, with `answer` and `reasoning`, and `prediction` of a task with classes.
    """
    answers = cell["answer"].dropna()
    if answers.empty or cell["template"].isna().all():
        return {}
    found = {}
    if (classes := cell.get("prediction")) is not None:
        found[NO_LABEL] = float((classes.dropna() == NO_CLASS).mean())
    if cell["reasoning"].isna().all():
        found[UNASKED_REASONING] = float(np.mean([begins_reasoning(answer) for answer in answers]))
    return found


def answers_of_cell(cell: pd.DataFrame, metrics: Sequence[str], clusters: Mapping[str, str]) -> dict[str, Any]:
    """One row of `answer_figures`, from the records of one cell; there is at least one."""
    scored = cell[cell["answer_values"].notna()]
    n = len(scored)
    codes = cluster_codes(scored["sample_id"].tolist(), clusters)
    row = names_of_cell(cell)
    row |= {"n_attempted": len(cell), "n_scored": n, "n_failed": len(cell) - n}
    row["n_clusters"] = n if codes is None else len(np.unique(codes))
    values = np.asarray(scored["answer_values"].tolist(), dtype=float).reshape(n, len(metrics))
    for place, name in enumerate(metrics):
        found = mean_interval(values[:, place], codes)
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    lengths = scored["answer"].str.len()
    row["answer_length"] = float(lengths.mean()) if n else float("nan")
    row["empty_share"] = float((lengths == 0).mean()) if n else float("nan")
    row["truncated_share"] = float((scored["finish_reason"] == "length").mean()) if n else float("nan")
    return row
