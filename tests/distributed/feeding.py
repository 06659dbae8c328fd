"""Units for the dispatch loop, without a run directory."""

from __future__ import annotations

from collections.abc import Sequence

from harness.planning.units import WorkUnit
from harness.running.feed import Feed, ModelFeed
from harness.running.messages import UnitReport
from harness.running.schedule import InOrder, Schedule


def unit(name: str, ks: tuple[int, ...] = (0,), model: str = "m", seed: int = 1) -> WorkUnit:
    """A unit of that id."""
    return WorkUnit(name, model, "nsmc", "t", seed, ks, tuple(f"{name}-{k}" for k in ks), 0)


def feed(units: Sequence[WorkUnit], schedule: Schedule | None = None) -> ModelFeed:
    """Nothing of these units, which are of one model, is committed."""
    pieces = {one.id: (one,) for one in units}
    return Feed(schedule or InOrder(units), lambda one: pieces.get(one.id), _never).of(units[0].model)


def _never(unit: WorkUnit) -> UnitReport:
    raise AssertionError(f"nothing of {unit.id} is committed")
