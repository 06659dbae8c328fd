"""The grid as cells and work units, before anything is computed.

Knows names, counts and content hashes; refuses to know Ray and torch. A work unit is what a
replica does at once: all K of one (model, template, seed), so that their prefix is shared,
over one shard of the samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.config.schema import RunConfig
from harness.core.hashing import content_hash, rows_hash
from harness.core.task import Sample
from harness.planning.identity import cell_identity, reference_identity, training_identity, wording_of
from harness.prompts.draws import draw_of

if TYPE_CHECKING:
    from harness.planning.coverage import Coverage
    from harness.planning.preparation import Prepared


MOST_COMMON_INPUTS = 3
"""Content-free inputs of a task whose samples have the same labels; they stay in one unit."""


@dataclass(frozen=True)
class Cell:
    """One strategy: a prompt, which is a point of the grid, or a reference, which has no template."""

    model: str
    """That answers the prompt, or the reference's own name."""
    task: str
    template: str | None
    k: int | None
    """Demonstrations in the prompt, or labelled examples that the reference was trained on for this run; None for
    one that came trained."""
    seed: int | None
    """Of the draw of these; None where nothing is drawn."""


@dataclass(frozen=True)
class Shard:
    """A run of samples in the nested order."""

    index: int
    samples: tuple[Sample, ...]
    hash: str
    content_free: bool = False
    """Whether it holds the inputs that calibration needs: records of them are no results."""


@dataclass(frozen=True)
class WorkUnit:
    """A piece of work that one replica does and commits at once."""

    id: str
    """Content hash of all that its records depend on."""
    model: str
    """As records call it."""
    task: str
    template: str | None
    """None for the work of a reference."""
    seed: int | None
    """At K=0, where it changes nothing, the one that its records are stored under."""
    ks: tuple[int | None, ...]
    keys: tuple[str, ...]
    """What the records of each K depend on besides the samples, as content hashes."""
    shard: int

    @property
    def place(self) -> str:
        """Where in the grid it is, in words."""
        return f"{self.model if self.template is None else self.template}, seed {self.seed}"

    def narrowed(self, keys: Iterable[str], rows: str) -> WorkUnit:
        """The unit with fewer K.

        Args:
            keys: those of `keys` that are kept.
            rows: hash of its samples.
        """
        kept = set(keys)
        pairs = [(k, key) for k, key in zip(self.ks, self.keys, strict=True) if key in kept]
        ks, left = tuple(k for k, _ in pairs), tuple(key for _, key in pairs)
        return self if ks == self.ks else replace(self, id=unit_id(left, rows), ks=ks, keys=left)

    def cells(self, seeds: Sequence[int]) -> tuple[Cell, ...]:
        """Cells that the unit has records of; those of K=0 stand for all seeds of the grid."""
        return tuple(
            Cell(self.model, self.task, self.template, k, seed)
            for k in self.ks
            for seed in (seeds if k == 0 else (self.seed,))
        )


def largest_k(ks: Iterable[int | None]) -> int | None:
    """The largest of some K; None where there is none, as of a reference that came trained."""
    return max((k for k in ks if k is not None), default=None)


@dataclass(frozen=True)
class Plan:
    """All units of a grid, model by model, and the shards they work on."""

    cells: tuple[Cell, ...]
    keys: Mapping[Cell, str]
    """What the records of each cell depend on; the cells of K=0 that differ in their seed share one."""
    units: tuple[WorkUnit, ...]
    """Those over content-free inputs included."""
    shards: tuple[Shard, ...]
    shard_size: int

    def n_records(self, units: Iterable[WorkUnit]) -> int:
        """Records that units of this plan commit, without those of content-free inputs."""
        return self.n_prompts(unit for unit in units if not self.shards[unit.shard].content_free)

    def n_prompts(self, units: Iterable[WorkUnit]) -> int:
        """Prompts of units of this plan, those over content-free inputs included."""
        return sum(len(self.shards[unit.shard].samples) * len(unit.ks) for unit in units)

    def without(self, covered: Coverage) -> tuple[Plan, Mapping[str, tuple[WorkUnit, ...]]]:
        """The plan less what is covered.

        K that lack the same samples of a shard stay together, because they share the trunk.

        Args:
            covered: the records that are committed.

        Returns:
            The plan with the pieces that are left as its units, and shards for these; and per unit of this plan
            its pieces, none where all of it is covered.
        """
        shards = list(self.shards)
        places = {shard.hash: shard.index for shard in shards}
        pieces: dict[str, tuple[WorkUnit, ...]] = {}
        for unit in self.units:
            whole = self.shards[unit.shard]
            groups: dict[tuple[str, ...], tuple[tuple[Sample, ...], list[int]]] = {}
            for place, key in enumerate(unit.keys if unit.id not in covered.units else ()):
                missing = covered.missing(key, whole.samples)
                if missing:
                    groups.setdefault(tuple(s.id for s in missing), (missing, []))[1].append(place)
            found = []
            for samples, kept in groups.values():
                rows = whole.hash if len(samples) == len(whole.samples) else rows_hash(s.row() for s in samples)
                shard = places.setdefault(rows, len(shards))
                if shard == len(shards):
                    shards.append(Shard(shard, samples, rows, whole.content_free))
                ks, keys = tuple(unit.ks[place] for place in kept), tuple(unit.keys[place] for place in kept)
                found.append(replace(unit, id=unit_id(keys, rows), ks=ks, keys=keys, shard=shard))
            pieces[unit.id] = tuple(found)
        units = tuple(piece for found in pieces.values() for piece in found)
        return replace(self, units=units, shards=tuple(shards)), pieces


class Pieces:
    """What is left of a plan's units, and of such with fewer K.

    Args:
        plan: whose units are asked for.
        left: per unit of the plan its pieces, see `Plan.without`.
        shards: those that pieces name.
    """

    def __init__(self, plan: Plan, left: Mapping[str, tuple[WorkUnit, ...]], shards: Sequence[Shard]) -> None:
        self._left, self._shards = left, shards
        self._whole = {(unit.model, unit.template, unit.seed, unit.shard): unit for unit in plan.units}

    def __call__(self, unit: WorkUnit) -> tuple[WorkUnit, ...] | None:
        """The pieces of a unit; None where it is none of the run's."""
        if unit.id in self._left:
            return self._left[unit.id]
        whole = self._whole.get((unit.model, unit.template, unit.seed, unit.shard))
        if whole is None or not set(unit.keys) < set(whole.keys):
            return None
        pieces = ((piece, [key for key in piece.keys if key in unit.keys]) for piece in self._left[whole.id])
        return tuple(piece.narrowed(keys, self._shards[piece.shard].hash) for piece, keys in pieces if keys)


def make_cells(prepared: Prepared) -> tuple[Cell, ...]:
    """The cells in the order of the grid, then the references."""
    config = prepared.config
    prompts = (
        Cell(setup.name, config.task.name, template, k, seed)
        for setup in prepared.models
        for template in config.grid.templates
        for k in config.grid.k
        for seed in config.grid.seeds
    )
    return (
        *prompts,
        *(Cell(one.name, config.task.name, None, None, None) for one in prepared.references),
        *(
            Cell(one.name, config.task.name, None, n, seed)
            for one in prepared.curve
            for n in config.finetune.sizes
            for seed in config.finetune.seeds
        ),
    )


def choose_shard_size(config: RunConfig, n_samples: int, replicas: int, method: str) -> int:
    """Samples per unit: large enough to share prefixes, small enough for every replica to work.

    Where a trunk is shared by all samples, each shard computes it again; where each sample has
    its own, shards cost nothing. Generated answers take longer, so their shards are smaller.
    """
    chosen = config.cluster.chosen_shard_size
    if chosen is not None:
        return chosen
    shared = draw_of(config.demos).shares_trunk
    most, least = (512, 128) if shared and method == "likelihood" else (64, 16)
    groups = len(config.grid.templates) * len(config.grid.seeds)
    shards = max(1, math.ceil(3 * replicas / groups))
    return max(least, min(most, math.ceil(n_samples / shards)))


def units_of_a_model(config: RunConfig, n_samples: int, shard_size: int) -> int:
    """How many units one model of a grid has: no more replicas find work.

    Args:
        config: of the run.
        n_samples: of the task.
        shard_size: samples per unit.
    """
    shards = math.ceil(n_samples / shard_size) + bool(config.scoring.calibration)
    groups = sum(1 for place in range(len(config.grid.seeds)) if place == 0 or any(config.grid.k))
    return len(config.grid.templates) * groups * shards


def make_plan(prepared: Prepared, shard_size: int, cuts: Sequence[tuple[Sample, ...]] | None = None) -> Plan:
    """Cells, shards and units of a prepared run.

    Args:
        prepared: the run.
        shard_size: samples per unit.
        cuts: the samples of each shard. By default shards are cut from the samples in the nested order; see
            `Prepared.shard_order`.
    """
    from harness.planning.preparation import content_free  # heavy, and not needed to read units

    config = prepared.config
    samples = prepared.data.samples
    orders: dict[int | None, list[int]] = {}
    shards: list[Shard] = []
    seeds = config.grid.seeds
    policy = draw_of(config.demos)
    by_seed = policy.groups_samples and any(config.grid.k) and cuts is None
    for seed in seeds if by_seed else [None]:
        orders[seed] = []
        ordered = [] if cuts else [samples[i] for i in prepared.shard_order(seeds[0] if seed is None else seed)]
        runs = (tuple(ordered[start : start + shard_size]) for start in range(0, len(ordered), shard_size))
        for rows in cuts or runs:
            orders[seed].append(len(shards))
            shards.append(Shard(len(shards), rows, rows_hash(s.row() for s in rows)))
    units: list[WorkUnit] = []
    inputs = content_free(config.scoring.calibration, prepared.data)
    extra = []
    for start in range(0, len(inputs), max(shard_size, MOST_COMMON_INPUTS)):
        part = inputs[start : start + max(shard_size, MOST_COMMON_INPUTS)]
        extra.append(len(shards))
        shards.append(Shard(len(shards), part, rows_hash(s.row() for s in part), content_free=True))
    cells: dict[Cell, str] = {}
    for setup in prepared.models:
        fixed = cell_identity(prepared, setup)
        for template in config.grid.templates:
            wording = wording_of(prepared.template(template))
            for place, seed in enumerate(seeds):
                ks = tuple(k for k in config.grid.k if k > 0 or place == 0)
                if not ks:
                    continue
                keys = tuple(
                    content_hash({**fixed, "template": wording, "k": k, "seed": seed if k > 0 else None}) for k in ks
                )
                for index in orders[seed if by_seed else None] + extra:
                    unit = WorkUnit(
                        unit_id(keys, shards[index].hash),
                        setup.name,
                        config.task.name,
                        template,
                        seed,
                        ks,
                        keys,
                        index,
                    )
                    units.append(unit)
                for k, key in zip(ks, keys, strict=True):
                    cells |= {
                        Cell(setup.name, config.task.name, template, k, other): key
                        for other in (seeds if k == 0 else (seed,))
                    }
    for reference in prepared.references:
        cell = Cell(reference.name, config.task.name, None, None, None)
        cells[cell] = key = content_hash(reference_identity(prepared, reference))
        for index in next(iter(orders.values())):
            id_ = unit_id([key], shards[index].hash)
            units.append(WorkUnit(id_, cell.model, cell.task, None, None, (None,), (key,), index))
    if prepared.curve:
        everyone = tuple(samples[place] for place in prepared.nested_order)
        shards.append(Shard(len(shards), everyone, rows_hash(s.row() for s in everyone)))
    for curve, n, seed in itertools.product(prepared.curve, config.finetune.sizes, config.finetune.seeds):
        # One unit, so that each is trained once.
        cell = Cell(curve.name, config.task.name, None, n, seed)
        cells[cell] = key = content_hash(training_identity(prepared, curve, n, seed))
        id_ = unit_id([key], shards[-1].hash)
        units.append(WorkUnit(id_, cell.model, cell.task, None, seed, (n,), (key,), shards[-1].index))
    return Plan(make_cells(prepared), cells, tuple(units), tuple(shards), shard_size)


def unit_id(keys: Iterable[str], rows: str) -> str:
    """The content hash of a unit.

    Args:
        keys: of its cells, see `WorkUnit.keys`; their order does not matter.
        rows: hash of its samples.
    """
    return content_hash({"cells": sorted(keys), "rows": rows})
