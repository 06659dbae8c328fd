"""The console that results are printed on."""

from __future__ import annotations

import os
import sys
import unicodedata

from rich.console import Console

PLAIN_WIDTH = 200
"""Columns where the output is no terminal: wide enough that nothing is cut."""


class _OutputConsole(Console):
    def on_broken_pipe(self) -> None:
        """A reader such as `head` that has seen enough is no failure."""
        self.quiet = True
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        raise SystemExit(0)


def output_console() -> Console:
    """Standard output: as wide as the terminal, or wide and plain in a pipe."""
    return _OutputConsole(width=None if sys.stdout.isatty() else PLAIN_WIDTH, soft_wrap=False)


def printable(text: str) -> str:
    """Text from data without what would steer a terminal: control characters become `?`."""
    return "".join("?" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)
