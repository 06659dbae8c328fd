"""The console that results are printed on, and the only ways text gets there.

Names and texts come from data and from run directories of others: whatever is written through here
steers no terminal and is no markup.
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from harness.core.addresses import redacted
from harness.core.escaping import visible

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


class PlainTable(Table):
    """A table whose titles and cells are text, never markup."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """As `rich.table.Table`, with escaped texts."""
        super().add_row(*(_plain(cell) for cell in cells), **options)

    def add_column(self, header: RenderableType = "", *more: Any, **options: Any) -> None:
        """As `rich.table.Table`, with an escaped header."""
        super().add_column(_plain(header) or "", *more, **options)


def _plain(cell: RenderableType | None) -> RenderableType | None:
    return Text(visible(cell)) if isinstance(cell, str) else cell
