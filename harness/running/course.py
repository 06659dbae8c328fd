"""How a run goes about its grid where it does not simply do all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import RichCast

from harness.planning.preparation import Prepared
from harness.planning.units import Plan, make_plan


def _fits(prepared: Prepared) -> None:
    """No demand."""


@dataclass(frozen=True)
class Course:
    """What a verb may have its own way in."""

    check: Callable[[Prepared], None] = _fits
    """Refuses what the verb cannot do, before anything starts."""
    plan_of: Callable[[Prepared, int], Plan] = make_plan
    """The units of a prepared run with a shard size."""
    keep_failed: bool = False
    """Whether all failed records stay, for a schedule that has read them."""
    board: RichCast | None = None
    """Drawn above the bar on a terminal."""
    summary: Callable[[], Mapping[str, Any]] | None = None
    """What a tracker is told of the whole in place of the best of all cells and the differences between them, which
    mean nothing where cells have other samples."""


WHOLE_GRID = Course()
