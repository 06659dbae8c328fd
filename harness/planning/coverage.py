"""Which samples of which cells have committed records, and in which parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from harness.core.task import Sample


class Coverage:
    """Which samples of which cells have committed records, and in which parts."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        """Sample to its place below: millions of records need no texts of their own."""
        self._samples: defaultdict[str, bytearray] = defaultdict(bytearray)
        self._parts: defaultdict[str, set[str]] = defaultdict(set)
        self.units: set[str] = set()
        """Ids of the parts: a unit of that id is covered."""

    def add(self, key: str, part: str, ids: Iterable[str]) -> None:
        """Count records of a part in.

        Args:
            key: of their cell, see `WorkUnit.keys`.
            part: the part's id.
            ids: their samples.
        """
        known = self._samples[key]
        for name in ids:
            place = self._places.setdefault(name, len(self._places))
            if place >= len(known):
                known.extend(bytes(len(self._places) - len(known)))
            known[place] = 1
        self._parts[key].add(part)
        self.units.add(part)

    def missing(self, key: str, samples: Sequence[Sample]) -> tuple[Sample, ...]:
        """The samples that a cell has no record of, in their order."""
        known = self._samples.get(key)
        if known is None:
            return tuple(samples)
        places = ((sample, self._places.get(sample.id, len(known))) for sample in samples)
        return tuple(sample for sample, place in places if place >= len(known) or not known[place])

    def parts(self, keys: Iterable[str]) -> set[str]:
        """The parts that hold records of these cells."""
        return {part for key in keys for part in self._parts.get(key, ())}
