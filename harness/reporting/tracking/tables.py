"""What is logged at the end of a run, as plain data for the process that holds wandb.

Knows cells, pairs and records as frames; refuses to know wandb and where the frames come from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from harness.analysis.cells import KEYS, main_figure
from harness.reporting.tracking.charts import charts, interval_columns

SAMPLE_ROWS = 1000
"""Records in the sample table at most."""
TABLE_ROWS = 10_000
"""Rows of any other table at most: wandb would cut longer ones off without a word on the page."""


Frame = pd.DataFrame | Callable[[], pd.DataFrame]
"""A table, or a function that makes it when its turn comes."""


Facts = Mapping[str, Any] | Callable[[], Mapping[str, Any]]
"""Figures by name, or a function that makes them when its turn comes."""


def cells_message(cells: pd.DataFrame) -> dict[str, Any]:
    """The table of cells, and the best cell for the summary."""
    message = table_message("cells", cells)
    facts = plain({"cells/count": len(cells), **_best(cells)})
    return {**message, "summary": {**message["summary"], **_known(facts)}}


def summary_message(facts: Facts) -> dict[str, Any]:
    """Further entries of the summary."""
    return {"kind": "tables", "tables": {}, "summary": _known(plain(facts() if callable(facts) else facts))}


def table_message(name: str, rows: Frame) -> dict[str, Any]:
    """A table under a name, with a note in the summary if it is cut."""
    frame = rows() if callable(rows) else rows
    table = _table(frame.head(TABLE_ROWS))
    return {"kind": "tables", "tables": {name: table}, "summary": _note(name, len(frame))}


def samples_message(records: Frame) -> dict[str, Any]:
    """The table of samples, and a note on how many records it stands for."""
    frame = records() if callable(records) else records
    table = _table(thinned(frame, SAMPLE_ROWS))
    shown = len(table["rows"])
    note = f"{shown} of {len(frame)} records" + (", evenly spaced" if shown < len(frame) else "")
    return {"kind": "tables", "tables": {"samples": table}, "summary": {"samples/note": note}}


def charts_message(cells: pd.DataFrame) -> dict[str, Any]:
    """Charts of W&B's presets, with a note in the summary on each whose table is cut."""
    found = charts(cells)
    shown = [
        {**asdict(chart), "rows": [[_plain_value(value) for value in row] for row in chart.rows[:TABLE_ROWS]]}
        for chart in found
    ]
    notes = {name: text for chart in found for name, text in _note(chart.name, len(chart.rows)).items()}
    return {"kind": "charts", "charts": shown, "summary": notes}


def row_message(prefix: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the history; what is not known has no entry, so that it never shows as 0."""
    return {"kind": "row", "row": {f"{prefix}/{name}": value for name, value in _known(plain(figures)).items()}}


def thinned(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many rows, evenly spaced, so that every part of a sorted frame is represented."""
    if len(frame) <= most:
        return frame
    return frame.iloc[[place * len(frame) // most for place in range(most)]]


def _best(cells: pd.DataFrame) -> dict[str, Any]:
    """The cell with the highest main figure, the first of equals; none where a race gave cells other samples."""
    figure = main_figure(cells)
    if cells[figure].isna().all() or (cells["n_scored"] + cells["n_failed"]).nunique() > 1:
        return {}
    low, high = interval_columns(figure)
    best = cells.iloc[int(cells[figure].argmax())]
    # The highest of several is too high on average; its plain names are for what is expected of it.
    names = {name: f"{name}_as_scored" if len(cells) > 1 else name for name in (figure, low, high)}
    return {f"best/{names.get(name, name)}": best[name] for name in [*KEYS, *names, "n_scored"]}


def _note(name: str, rows: int) -> dict[str, str]:
    return {f"{name}/note": f"the first {TABLE_ROWS} of {rows} rows"} if rows > TABLE_ROWS else {}


def _table(frame: pd.DataFrame) -> dict[str, Any]:
    rows = [list(plain(row).values()) for row in frame.to_dict("records")]
    return {"columns": [str(name) for name in frame], "rows": rows}


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def plain(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Values as JSON knows them; what is missing or no number becomes None, lists become text."""
    return {str(name): _plain_value(value) for name, value in values.items()}


def _plain_value(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)
