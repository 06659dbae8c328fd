"""How a step reports: notes as it goes, and two ways to end early."""

from __future__ import annotations

from typing import Any, Protocol


class Note(Protocol):
    """Keeps a figure of the running step, at once: it stays if the step dies."""

    def __call__(self, name: str, value: Any) -> None:
        """Keep a value of plain data under a name; a later value of that name takes its place."""
        ...


class SkippedError(Exception):
    """This machine lacks what the step needs."""


class WrongError(Exception):
    """Something was computed, and it is not what it should be."""
