"""The console that results are printed on, and the only ways text gets there.

Names and texts come from data and from run directories of others: whatever is written through here
steers no terminal and is no markup.
"""

from __future__ import annotations

import functools
import logging
import re
import sys
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from harness.core.addresses import redacted
from harness.core.escaping import visible

NAME_WIDTH = 20
"""Columns of a name that stay on one line."""
PLAIN_WIDTH = 200
"""Columns where the output is no terminal: wide enough that nothing is cut."""


class _OutputConsole(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line, which ends as programs do whose reader has seen enough."""
        raise


def output_console() -> Console:
    """Standard output: as wide as the terminal, or wide and plain in a pipe."""
    return _OutputConsole(width=None if sys.stdout.isatty() else PLAIN_WIDTH, soft_wrap=False)


@functools.cache
def error_console() -> Console:
    """Standard error. There is one: a bar that log lines of another console cross is drawn over them."""
    return Console(stderr=True)


def write(console: Console, text: str) -> None:
    """Write text as it is, but for what would steer the terminal; lines and tabs stay."""
    console.file.write(visible(text, keep="\n\t"))


def say(console: Console, text: str) -> None:
    """Print a line of prose, broken where the console ends."""
    console.print(Text(visible(text)))


class SafeFormatter(logging.Formatter):
    """Log lines without secrets of addresses and without what would steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter`, made safe; lines of a traceback stay lines."""
        return visible(redacted(super().format(record)), keep="\n\t")


class _Name:
    """A text that goes on in a new line after a mark, where there is no room for it or for `NAME_WIDTH` of it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pieces = re.split(r"(?<=[-_/. ])", text)

    def __str__(self) -> str:
        return self._text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        whole = cell_len(self._text)
        return Measurement(max(min(whole, NAME_WIDTH), *map(cell_len, self._pieces)), whole)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for piece in self._pieces:
            if lines[-1] and cell_len(lines[-1] + piece.rstrip()) > options.max_width:
                lines.append("")
            lines[-1] += piece
        yield Text("\n".join(lines))


class PlainTable(Table):
    """A table whose titles and cells are text, never markup; texts that may fold do so after marks."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """As `rich.table.Table`, with escaped texts."""
        folds = [column.overflow == "fold" and not column.no_wrap for column in self.columns]
        plain = [
            _Name(visible(cell)) if fold and isinstance(cell, str) else _plain(cell)
            for cell, fold in zip(cells, folds, strict=True)
        ]
        super().add_row(*plain, **options)

    def add_column(self, header: RenderableType = "", *more: Any, **options: Any) -> None:
        """As `rich.table.Table`, with an escaped header."""
        super().add_column(_plain(header) or "", *more, **options)


def _plain(cell: RenderableType | None) -> RenderableType | None:
    return Text(visible(cell)) if isinstance(cell, str) else cell
