"""A table as texts: what one cell holds, and rows with the place where each stands."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.core.escaping import one_line
from harness.core.spelling import first_alike
from harness.core.task import KEPT_FIELDS


@dataclass(frozen=True)
class Cells:
    """What one cell of a JSON or Arrow list holds: several texts."""

    texts: tuple[str, ...]


Cell = str | Cells | None


@dataclass
class Table:
    """Rows of one file or of several with the same columns."""

    columns: list[str]
    rows: list[dict[str, Cell]]
    places: list[str]
    """Where each row stands, for messages: file and line."""
    notes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """Name of the file of each row."""


def text_of(value: Any) -> Cell:
    """A cell's text: truth values as `true` and `false`, floats as Python writes them; lists keep their texts.

    NaN, by which pandas says that nothing is there, is None; within a list what is missing is an empty text, so that
    the others keep their places.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return Cells(tuple(_within_list(one) for one in value))
    if value != value:
        return None
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _within_list(value: Any) -> str:
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(text_of(value) or "")


def header_fault(place: str, columns: Sequence[str]) -> str:
    """What is wrong with the names of the columns; an empty text where nothing is."""
    if len(set(columns)) != len(columns):
        twice = next(name for name, count in Counter(columns).items() if count > 1)
        return f"{place}: the column '{one_line(twice, 60)}' comes twice, expected each name once"
    if not all(columns):
        return f"{place}: a column has no name, expected a header with the names of the columns"
    return ""


def field_name(column: str) -> str:
    """A column's name as templates write it: what is no letter, digit or underscore becomes one.

    Names that run directories keep for themselves, such as `cluster`, get an underscore behind them.
    """
    name = re.sub(r"\W", "_", column)
    name = name if name.isidentifier() else f"_{name}"
    return f"{name}_" if name in KEPT_FIELDS else name


def fields_fault(columns: Sequence[str]) -> str:
    """Which columns have one name as templates write it; an empty text where none have."""
    twice = first_alike(dict.fromkeys(columns), field_name)
    if twice is None:
        return ""
    shown = [one_line(name, 60) for name in (*twice, field_name(twice[0]))]
    return f"the columns '{shown[0]}' and '{shown[1]}' are both {{{shown[2]}}} in templates; rename one of them"
