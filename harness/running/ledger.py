"""What a run has, what is left of it, and whether it is whole: the plan, its schedule and the parts held together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.core.errors import RunDirError
from harness.core.hashing import rows_hash
from harness.core.task import CONTENT_FREE
from harness.planning.units import Cell, Pieces, Plan, Shard, WorkUnit, largest_k
from harness.results.store import RunStore
from harness.running.committed import Committed, Failures, refuse
from harness.running.feed import Feed
from harness.running.schedule import Schedule


class Ledger:
    """Counts a run's records, unit by unit.

    Args:
        store: of the run directory.
        plan: of the whole grid.
        schedule: of this plan's units.
        committed: what the directory held at first.

    Attributes:
        feed: gives what is to be computed.
        work: the plan of what is left; its shards are those that pieces name.
    """

    def __init__(self, store: RunStore, plan: Plan, schedule: Schedule, committed: Committed) -> None:
        self._store, self._plan, self._committed = store, plan, committed
        work, left = plan.without(committed.covered)
        self.work, self._retries = _with_retries(plan, work, committed.again)
        self._pieces = Pieces(plan, left, work.shards)
        self.feed = Feed(schedule, self._pieces, committed.report, self._retries)
        samples = {s.id: s for shard in plan.shards if not shard.content_free for s in shard.samples}
        self._n_samples = len(samples)
        everyone = list(samples.values())
        self._left = {key: len(committed.covered.missing(key, everyone)) for key in dict.fromkeys(plan.keys.values())}

    @property
    def n_committed(self) -> int:
        """Parts that were there at first."""
        return len(self._committed.statistics)

    @property
    def n_cells_done(self) -> int:
        """Cells that have all their records."""
        return sum(not self._left[self._plan.keys[cell]] for cell in self._plan.cells)

    @property
    def expected(self) -> dict[str, Any]:
        """What the manifest says of the whole run: `n_units` and `n_records`, as parts and as records that are
        stored, both None while the schedule does not know; and the parts that hold no results."""
        expected = self.feed.expected
        content_free = {unit.id for unit in self.work.units if self.work.shards[unit.shard].content_free}
        n_units = n_records = None
        if expected is not None:
            pieces = self._pieces_of(expected)
            n_units = self.n_committed + len(pieces)
            n_records = self._committed.n_records + self.work.n_records(pieces)
        return {
            "n_units": n_units,
            "n_records": n_records,
            "calibration_units": sorted(content_free | self._committed.content_free),
        }

    def n_prompts_left(self) -> int | None:
        """Prompts of the rest of the schedule, over content-free inputs too; None while that is not known."""
        expected = self.feed.expected
        return None if expected is None else self.work.n_prompts([*self._retries, *self._pieces_of(expected)])

    @property
    def n_prompts_before(self) -> int:
        """The same of the parts that were there at first, without those that are computed again."""
        known = sum(statistics.n_records for statistics in self._committed.statistics.values())
        return known - self.work.n_prompts(self._retries)

    @property
    def n_missing(self) -> int:
        """Records that the run is to have and has not, those of K=0 once for all seeds."""
        return sum(self._left.values())

    @property
    def again(self) -> dict[str, frozenset[str]]:
        """Ids of committed parts to those of the samples in them that are computed again."""
        return {part: failures.samples for part, failures in self._committed.again.items()}

    @property
    def units(self) -> Sequence[WorkUnit]:
        """All pieces that may be computed, those of failed samples first."""
        return [*self._retries, *self.work.units]

    def finish(self, unit: WorkUnit) -> tuple[tuple[Cell, ...], set[str]]:
        """Count a committed piece in.

        Returns:
            The cells that have all their records now and had not before, and the parts that hold these.
        """
        if unit.id in self._committed.again:
            return (), set()
        shard = self.work.shards[unit.shard]
        for key in unit.keys:
            self._committed.covered.add(key, unit.id, (sample.id for sample in shard.samples))
            self._left[key] -= 0 if shard.content_free else len(shard.samples)
        whole = {key for key in unit.keys if not self._left[key]} if not shard.content_free else set()
        cells = tuple(cell for cell in self._plan.cells if self._plan.keys[cell] in whole) if whole else ()
        return cells, self._committed.covered.parts(whole) - self._committed.content_free

    def check_complete(self) -> None:
        """Refuse to end a run whose parts are elsewhere.

        Raises:
            RunDirError: parts that were committed are not there.
        """
        pieces = self._pieces_of(self.feed.given)
        missing = {piece.id for piece in pieces} - self._store.part_ids()
        if missing:
            raise RunDirError(
                f"{len(missing)} of {len(pieces)} units were computed, but their parts are not in "
                f"'{self._store.run_dir}'; set out=... to a folder or storage that every node sees"
            )

    def check_records(self, found: int) -> None:
        """A run is complete when each cell has a record of each of its samples, whatever the files are called.

        Args:
            found: records as they are read back, those of K=0 under every seed.

        Raises:
            RunDirError: there are fewer, or files of no unit.
        """
        seeds = Counter(self._plan.keys.values())
        shards = self._plan.shards
        wanted = sum(
            len(shards[unit.shard].samples) * sum(seeds[key] for key in unit.keys)
            for unit in self.feed.given
            if not shards[unit.shard].content_free
        )
        if found < wanted:
            raise RunDirError(
                f"'{self._store.run_dir}' holds {found:,} of {wanted:,} records: parts were lost or changed while it "
                "ran; run the same command again, it computes what is missing"
            )
        ours = {piece.id for piece in self._pieces_of(self.feed.given)} | self._committed.statistics.keys()
        refuse(self._store, self._store.part_ids() - ours)

    def _pieces_of(self, units: Iterable[WorkUnit]) -> Sequence[WorkUnit]:
        return [piece for unit in units for piece in self._pieces(unit) or ()]


def _with_retries(plan: Plan, work: Plan, again: Mapping[str, Failures]) -> tuple[Plan, tuple[WorkUnit, ...]]:
    """The plan of what is left with shards for samples that are computed again, and the units over them."""
    of_key = {key: unit for unit in reversed(plan.units) for key in unit.keys}
    samples = {s.id: s for shard in plan.shards for s in shard.samples}
    shards, units = list(work.shards), []
    for part, failures in again.items():
        like = of_key[failures.keys[largest_k(failures.keys)]]
        rows = tuple(samples[name] for name in samples if name in failures.samples)
        ks, keys = tuple(failures.keys), tuple(failures.keys.values())
        units.append(replace(like, id=part, seed=failures.seed, ks=ks, keys=keys, shard=len(shards)))
        content_free = rows[0].id.startswith(CONTENT_FREE)
        shards.append(Shard(len(shards), rows, rows_hash(s.row() for s in rows), content_free))
    return replace(work, shards=tuple(shards)), tuple(units)
