"""Figures of single records, besides accuracy and a task's answer metrics, that strategies can be compared by.

Names are those of the cells' columns whose means they are. Refuses to know where records lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis.table import FloatArray


@dataclass(frozen=True, slots=True)
class Figure:
    """A value of each record whose mean over samples is a figure of the cell."""

    columns: tuple[str, ...]
    """Of the records; the value is NaN where the first is null, as of a failed sample."""
    value: Callable[[pd.DataFrame], pd.Series]
    of_references: bool = True
    """Whether references, which generate nothing, have a value too."""
    is_quality: bool = False
    """Whether more is better; else strategies are higher or lower, not better or worse."""


def _same(name: str) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda records: records[name]


FIGURES = {
    "greedy_accuracy": Figure(
        ("prediction", "greedy_prediction", "gold"),
        lambda records: (records["greedy_prediction"] == records["gold"]).fillna(False),
        of_references=False,
        is_quality=True,
    ),
    "off_label_mass": Figure(("off_label_mass",), _same("off_label_mass")),
    "predicted_positive_share": Figure(("prediction",), lambda records: records["prediction"] == 1),
    "answer_length": Figure(("answer",), lambda records: records["answer"].str.len()),
    "empty_share": Figure(("answer",), lambda records: records["answer"].str.len() == 0),
    "truncated_share": Figure(("finish_reason",), lambda records: records["finish_reason"] == "length"),
    "generated_tokens": Figure(("n_generated_tokens",), _same("n_generated_tokens")),
    "prompt_tokens": Figure(("n_prompt_tokens",), _same("n_prompt_tokens")),
}


def figure_values(records: pd.DataFrame, name: str) -> FloatArray:
    """The values of a figure, (records,), NaN where a record has none.

    Args:
        records: with the figure's columns and `template`.
        name: of `FIGURES`.
    """
    figure = FIGURES[name]
    known = records[figure.columns[0]].notna().to_numpy()
    if not figure.of_references:
        known = known & records["template"].notna().to_numpy()
    values = figure.value(records).astype("Float64").to_numpy(dtype=float, na_value=np.nan)
    return np.asarray(np.where(known, values, np.nan), dtype=np.float64)
