"""A schedule that adds units while the run goes on, and the verbs with it: `python -m tests.distributed.scheduling`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from harness import cli
from harness.planning.units import Plan, WorkUnit
from harness.running import driver
from harness.running.messages import UnitReport


class EveryOther:
    """Groups of units that differ in their shard alone; every other one comes once its first shard is in."""

    def __init__(self, plan: Plan) -> None:
        groups: dict[tuple[str, str, int], list[WorkUnit]] = {}
        for unit in plan.units:
            groups.setdefault((unit.model, unit.template, unit.seed), []).append(unit)
        self._ready: list[WorkUnit] = []
        self._later: dict[str, list[WorkUnit]] = {}
        for place, units in enumerate(groups.values()):
            self._ready += units[:1] if place % 2 else units
            if place % 2 and units[1:]:
                self._later[units[0].id] = units[1:]

    def next(self, n: int) -> Sequence[WorkUnit]:
        """What may begin."""
        found, self._ready = self._ready[:n], self._ready[n:]
        return found

    def finished(self, unit: WorkUnit, report: UnitReport) -> None:
        """The first shard of a group lets the others come."""
        assert report.statistics.n_records > 0
        self._ready += self._later.pop(unit.id, [])

    @property
    def is_exhausted(self) -> bool:
        """Whether all were given."""
        return not self._ready and not self._later

    @property
    def to_come(self) -> Sequence[WorkUnit] | None:
        """Known once all first shards are in."""
        return None if self._later else self._ready


class Twice(EveryOther):
    """Gives the first unit again, in its place or later."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._ready.insert(3, self._ready[0])


class Stuck(EveryOther):
    """Waits for ever after three units."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._ready = self._ready[:3]
        self._later = {"never": [plan.units[-1]]}


if __name__ == "__main__":
    driver.run = partial(driver.run, schedule_of=EveryOther)
    cli.main()
