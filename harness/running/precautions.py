"""What the dispatch loop knows of samples: which came through, which are suspected, which are out.

Decides which unit may go to which replica, so that a sample that ends processes costs few of them; refuses to know
how units are sent. While nobody has come through a shard, no more than two replicas try it; while one of its samples
is suspected, no more than one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.planning.units import WorkUnit
from harness.results.quarantine import Quarantine, Trial
from harness.running.messages import Handling, Note

MOST_TRYING = 2
"""Replicas that may have units of a shard which nobody has come through."""


@dataclass(frozen=True)
class _Death:
    """A process that ended without a sample by itself."""

    units: set[str]
    """That it had, and that have not come through since."""
    samples: frozenset[str]
    out: frozenset[str]
    """Of the samples, those that were out then."""


class Precautions:
    """The samples of a run in the eyes of one model.

    Args:
        shards: ids of the samples of each shard; without any nothing is held back.
        quarantine: evidence and verdicts of the run.
        note_of: what was noted last of a unit that is taken sample by sample.
        again: ids of the samples of committed units that are to be tried again, by unit.
    """

    def __init__(
        self,
        shards: Sequence[Iterable[str]] = (),
        quarantine: Quarantine | None = None,
        note_of: Callable[[WorkUnit], Note | None] = lambda unit: None,
        again: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self.quarantine = quarantine or Quarantine()
        self.note_of = note_of
        self._again = again or {}
        self._ordered = [tuple(shard) for shard in shards]
        self._samples = [frozenset(shard) for shard in self._ordered]
        self._unproven = [set(shard) for shard in self._samples]
        self._kin = _kin(self._samples)
        self._air: defaultdict[int, Counter[object]] = defaultdict(Counter)
        """Shard to the replicas that have units of it."""
        self._dead: dict[str, int] = {}
        """Units to be taken sample by sample, with their shards."""
        self._passed: defaultdict[str, set[str]] = defaultdict(set)
        """Unit to samples that came through by themselves when it was tried before."""
        self._unexplained: list[_Death] = []

    def expect(self, units: Iterable[WorkUnit]) -> None:
        """These units are to be done, too."""
        self._dead |= {unit.id: unit.shard for unit in units if self.quarantine.is_careful(unit.id)}

    def samples(self, unit: WorkUnit) -> tuple[str, ...]:
        """Ids of a unit's samples in their order, those to be tried again only; empty where they are not known."""
        known = self._ordered[unit.shard] if unit.shard < len(self._ordered) else ()
        again = self._again.get(unit.id)
        return known if again is None else tuple(sample for sample in known if sample in again)

    def may_go(self, unit: WorkUnit, replica: object) -> bool:
        """Whether a unit may be sent to a replica now."""
        if unit.shard >= len(self._samples):
            return True
        unproven = bool(self._unproven[unit.shard])
        suspected = self._is_suspected(unit)
        if not unproven and not suspected:
            return True
        holders = {holder for shard in self._kin[unit.shard] for holder in self._air.get(shard, ())}
        if suspected or self._has_death(unit.shard):
            return not holders
        return replica in holders or len(holders) < MOST_TRYING

    def handling(self, unit: WorkUnit) -> Handling | None:
        """How a unit is to be taken that is sent now; None where nothing is known."""
        samples = self.samples(unit)
        out, again = self.quarantine.verdicts(samples), self._again.get(unit.id)
        suspects = self.quarantine.suspects
        first = tuple(sample for sample in samples if sample in suspects)
        is_dead = self.quarantine.is_careful(unit.id)
        unproven = unit.shard < len(self._unproven) and bool(self._unproven[unit.shard])
        if first or is_dead or (unproven and self._has_death(unit.shard)):
            return Handling(out, True, first, frozenset(self._passed[unit.id] - set(first)), again)
        return Handling(out, again=again) if out or again is not None else None

    def sent(self, unit: WorkUnit, replica: object) -> None:
        """A unit is under way."""
        self._air[unit.shard][replica] += 1

    def ended(self, unit: WorkUnit, replica: object) -> None:
        """A unit is no more under way at a replica."""
        holders = self._air[unit.shard]
        holders[replica] -= 1
        if not holders[replica]:
            del holders[replica]
        if not holders:
            del self._air[unit.shard]

    def done(self, unit: WorkUnit) -> None:
        """A unit came through: so did its samples, but for those that are out."""
        self.settle([unit.id])
        self._explain(unit)
        self._passed.pop(unit.id, None)
        if unit.shard < len(self._samples):
            samples = frozenset(self.samples(unit))
            self.quarantine.clear(samples)
            if self._unproven[unit.shard]:
                for shard in self._kin[unit.shard]:
                    self._unproven[shard] -= samples

    def died(self, unit: WorkUnit) -> None:
        """A process ended in a unit whose samples were taken together."""
        self.quarantine.mark(unit.id)
        self._dead[unit.id] = unit.shard
        self._passed.pop(unit.id, None)

    def unexplained(self, units: Sequence[WorkUnit]) -> None:
        """A process ended that had these units; which sample it was at is not known."""
        if units:
            samples = frozenset(sample for unit in units for sample in self.samples(unit))
            self._unexplained.append(_Death({unit.id for unit in units}, samples, self._out_of(samples)))

    def failed_alone(self, unit: WorkUnit, handling: Handling, sample: str, trial: Trial) -> bool:
        """A process ended on a sample by itself; those tried before it came through.

        Returns:
            Whether more samples than before have come through.
        """
        order = [
            *handling.first,
            *(s for s in self.samples(unit) if s not in handling.first and s not in handling.last),
        ]
        before = set(order[: order.index(sample)]) if sample in order else set()
        self.quarantine.clear(before)
        is_news = not before <= self._passed[unit.id]
        self._passed[unit.id] |= before
        if self.quarantine.add(sample, trial):
            # What ended the processes of these units is known now: the rest of their samples are innocent.
            self.settle([u for u, shard in self._dead.items() if sample in self._of(shard)] + [unit.id])
        return is_news

    def settle(self, units: Iterable[str]) -> None:
        """These units need not be taken sample by sample any more."""
        settled = list(units)
        self.quarantine.unmark(settled)
        for unit in settled:
            self._dead.pop(unit, None)

    def _explain(self, unit: WorkUnit) -> None:
        """A unit came through: where all have that a process had, and no sample is out since, it was somebody else."""
        for death in self._unexplained:
            death.units.discard(unit.id)
            if not death.units and self._out_of(death.samples) == death.out:
                self.quarantine.count_other_deaths(1)
        self._unexplained = [death for death in self._unexplained if death.units]

    def _out_of(self, samples: Iterable[str]) -> frozenset[str]:
        return frozenset(sample for sample in samples if self.quarantine.is_out(sample))

    def _of(self, shard: int) -> frozenset[str]:
        return self._samples[shard] if shard < len(self._samples) else frozenset()

    def _is_suspected(self, unit: WorkUnit) -> bool:
        return any(sample in self._samples[unit.shard] for sample in self.quarantine.suspects)

    def _has_death(self, shard: int) -> bool:
        return any(other in self._kin[shard] for other in self._dead.values() if other < len(self._kin))


def _kin(shards: Sequence[frozenset[str]]) -> list[set[int]]:
    """Of each shard, those that share samples with it, itself included."""
    holding: defaultdict[str, list[int]] = defaultdict(list)
    for number, samples in enumerate(shards):
        for sample in samples:
            holding[sample].append(number)
    kin: list[set[int]] = [set() for _ in shards]
    for numbers in holding.values():
        for number in numbers:
            kin[number].update(numbers)
    return kin
