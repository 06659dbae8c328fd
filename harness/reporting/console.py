"""The console that results are printed on."""

from __future__ import annotations

import sys

from rich.console import Console

PLAIN_WIDTH = 200
"""Columns where the output is no terminal: wide enough that nothing is cut."""


def output_console() -> Console:
    """Standard output: as wide as the terminal, or wide and plain in a pipe."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, soft_wrap=False)
