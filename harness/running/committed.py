"""What a run directory holds of a run: which records are committed, and in which parts."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from harness.core.errors import RunDirError
from harness.core.task import CONTENT_FREE
from harness.planning.coverage import Coverage
from harness.planning.units import Plan, WorkUnit, largest_k
from harness.results.parts import STATISTICS_KEY, cells_of
from harness.results.quarantine import PASSING, REPLICA_DIED
from harness.results.schema import UnitStatistics
from harness.results.store import RunStore
from harness.running.feed import summed
from harness.running.messages import UnitReport

log = logging.getLogger(__name__)
_UNIT_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Failures:
    """What is to be computed again of a part."""

    keys: Mapping[int | None, str]
    """K to `WorkUnit.keys`."""
    seed: int | None
    samples: frozenset[str]


@dataclass
class Committed:
    """The sound parts of a run directory."""

    covered: Coverage = field(default_factory=Coverage)
    statistics: dict[str, UnitStatistics] = field(default_factory=dict)
    """Part to what it took."""
    content_free: set[str] = field(default_factory=set)
    """Parts whose records are no results."""
    n_records: int = 0
    """Records in the others."""
    again: dict[str, Failures] = field(default_factory=dict)
    """Part to the failed samples in it that are to be computed again."""

    def report(self, unit: WorkUnit) -> UnitReport:
        """What a unit took whose records are committed: in a part of its own, or in several that hold more than it."""
        parts = [unit.id] if unit.id in self.statistics else sorted(self.covered.parts(unit.keys))
        return UnitReport(unit.id, summed([self.statistics[part] for part in parts]))


def read_committed(
    store: RunStore,
    plan: Plan,
    early: Mapping[str, tuple[Mapping[int | None, str], int]],
    most_rows: int,
    retry_failed: bool = False,
    doubted: Collection[str] = (),
) -> Committed:
    """Read all parts. Damaged ones are removed, to be computed again.

    Args:
        store: of the run directory.
        plan: of the run.
        early: units of format 1, whose parts do not say what they hold: id to K to `WorkUnit.keys`, and rows.
        most_rows: more than a part can have.
        retry_failed: whether every failure is tried again, or those that may have passed.
        doubted: samples that are tried again where they are said to end their process.

    Raises:
        RunDirError: files in `parts/` that are of no unit of the run.
    """
    store.remove_leftovers()
    known: dict[str, tuple[Mapping[int | None, str], int]] = {
        unit.id: (dict(zip(unit.ks, unit.keys, strict=True)), len(plan.shards[unit.shard].samples) * len(unit.ks))
        for unit in plan.units
    } | dict(early)
    keys = set(plan.keys.values())
    ids = {sample.id for shard in plan.shards for sample in shard.samples}
    found, strangers = Committed(), []
    for unit_id, part in store.read_parts(store.part_ids(), ["k", "seed", "sample_id", "error_type"], most_rows):
        fault = str(part) if isinstance(part, ValueError) else ""
        if isinstance(part, pa.Table):
            try:
                of_part, n_rows = _facts(part, known.get(unit_id))
                if not of_part or not keys.issuperset(of_part.values()) or not _are_known(part, ids):
                    strangers.append(unit_id)
                    continue
                if part.num_rows != n_rows:
                    fault = f"part {unit_id} has {part.num_rows:,} rows, expected {n_rows:,}"
            except ValueError as error:
                fault = f"part {unit_id}: {error}"
        if not fault:
            _count_in(found, unit_id, part, of_part)
            assert isinstance(part, pa.Table)
            if failed := _failed_samples(part, retry_failed, doubted):
                seed = _rows(part, largest_k(of_part))["seed"][0].as_py()
                found.again[unit_id] = Failures(of_part, seed, failed)
        elif _UNIT_ID.fullmatch(unit_id):
            log.warning("%s; computing it again", fault)
            store.remove_part(unit_id)
        else:
            strangers.append(unit_id)
    refuse(store, strangers)
    return found


def refuse(store: RunStore, strangers: Iterable[str]) -> None:
    """End where files are in `parts/` that would count as results.

    Raises:
        RunDirError: naming the first of them.
    """
    names = sorted(strangers)
    if names:
        raise RunDirError(
            f"{len(names)} files in '{store.run_dir}/parts' are of no unit of this run ({names[0]}.parquet); "
            "move them away"
        )


def _facts(part: pa.Table, known: tuple[Mapping[int | None, str], int] | None) -> tuple[Mapping[int | None, str], int]:
    """K to what the records depend on, and how many there must be; nothing where nobody knows."""
    told = cells_of(part)
    if not told:
        return known or ({}, 0)
    # Each K has the same samples.
    return told, len(told) * pc.count_distinct(part["sample_id"]).as_py()


def _are_known(part: pa.Table, ids: set[str]) -> bool:
    names = pc.unique(part["sample_id"]).to_pylist()
    return all(name in ids or name.startswith(CONTENT_FREE) for name in names)


def _rows(part: pa.Table, k: int | None) -> pa.Table:
    return part.filter(pc.is_null(part["k"]) if k is None else pc.equal(part["k"], k))


def _count_in(found: Committed, unit_id: str, part: pa.Table, of_part: Mapping[int | None, str]) -> None:
    names: list[str] = []
    for k, key in of_part.items():
        names = pc.unique(_rows(part, k)["sample_id"]).to_pylist()
        found.covered.add(key, unit_id, names)
    found.statistics[unit_id] = _statistics(part)
    if names and names[0].startswith(CONTENT_FREE):
        found.content_free.add(unit_id)
    else:
        found.n_records += part.num_rows


def _failed_samples(part: pa.Table, is_any: bool, doubted: Collection[str]) -> frozenset[str]:
    """Samples with a record that failed, for whatever reason or for one that may have passed."""
    errors = part["error_type"]
    chosen = pc.is_valid(errors) if is_any else pc.is_in(errors, pa.array(sorted(PASSING)))
    if doubted:
        ended = pc.and_(
            pc.is_in(part["sample_id"], pa.array(sorted(doubted))), pc.fill_null(pc.equal(errors, REPLICA_DIED), False)
        )
        chosen = pc.or_(chosen, ended)
    return frozenset(part.filter(chosen)["sample_id"].to_pylist())


def _statistics(part: pa.Table) -> UnitStatistics:
    """What a part's footer says; nothing was taken where it is damaged, which costs no record."""
    known: dict[str, Any] = {f.name: "" if f.name == "replica" else 0 for f in fields(UnitStatistics)}
    try:
        said = json.loads((part.schema.metadata or {}).get(STATISTICS_KEY, b"{}"))
        known |= {name: said[name] for name in known if name in said}
    except (ValueError, TypeError, RecursionError):
        log.warning("a part does not say what it took")
    return UnitStatistics(**known)
