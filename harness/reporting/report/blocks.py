"""What a page is made of: tables, charts, sections. Plain data; the templates turn it into HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CHARTED = 30
"""Strategies in a chart at most; tables have more."""
ROW, NARROW_ROW, FRAME = 26, 42, 90
"""Pixels per row of a chart, where its label stands above it, and around the rows."""

Pick = tuple[int, int, int]
"""What a click shows: the samples that one group has right and another wrong, within a slice; -1 asks for none. Groups
are of `groups.groups_of`, slices of `slices.slices_of`."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    value: float | None = None
    """The figure at full precision, for programs that read the page."""
    mark: str = ""
    """`best`, `like`, `good`, `bad` or `quiet`: how it is set off; never the only sign."""
    shade: float | None = None
    """0 to 1: depth of the background, of a matrix."""
    pick: Pick | None = None
    """What a click shows of the samples."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    title: str
    number: bool = True
    """Set in tabular figures to the right."""


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its header."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False
    """Whether the reader opens it."""
    small: bool = False
    """Whether several may stand side by side."""


@dataclass(frozen=True)
class Chart:
    """A Plotly figure with the table that says the same."""

    name: str
    """Key of its specification on the page."""
    title: str
    summary: str
    """What a reader who does not see it is told."""
    spec: Mapping[str, Any]
    """`data` and `layout`; colours are names of the style sheet's variables."""
    height: int
    """Pixels."""
    table: Table | None = None
    wide: bool = False
    """Whether it scrolls sideways on narrow screens."""
    narrow_height: int | None = None
    """On narrow screens, where the rows' labels stand above their marks; None: no such rows."""


def rows_chart(name: str, title: str, summary: str, spec: Mapping[str, Any], rows: int, table: Table | None) -> Chart:
    """A chart as tall as its rows ask for, each with a label; the other arguments are those of `Chart`."""
    return Chart(name, title, summary, spec, FRAME + ROW * rows, table, narrow_height=FRAME + NARROW_ROW * rows)


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    name: str
    title: str
    short: str
    """In the navigation."""
    lead: str
    """One plain sentence: what the section shows."""
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    kind: str = "plain"
    """`plain`, `prompts`, `samples` or `facts`: which template draws it."""
    extra: Any = None
    """What that template needs besides."""
