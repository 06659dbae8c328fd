"""The grid as cells and work units, before anything is computed.

Knows names, counts and content hashes; refuses to know Ray and torch. A work unit is what a
replica does at once: all K of one (model, template, seed), so that their prefix is shared,
over one shard of the samples.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from harness.config.schema import RunConfig
from harness.core.hashing import content_hash, rows_hash
from harness.core.task import Sample
from harness.prompts.draws import draw_of
from harness.prompts.rendering import start_of
from harness.prompts.templates import Template

if TYPE_CHECKING:
    from harness.planning.preparation import ModelSetup, Prepared

RECORDS_VERSION = 2
"""Part of every unit's identity: raise it when records change their meaning."""


@dataclass(frozen=True, order=True)
class Cell:
    """One strategy: a point of the grid."""

    model: str
    task: str
    template: str
    k: int
    seed: int


@dataclass(frozen=True)
class Shard:
    """A run of samples in the nested order."""

    index: int
    samples: tuple[Sample, ...]
    hash: str


@dataclass(frozen=True)
class WorkUnit:
    """A piece of work that one replica does and commits at once."""

    id: str
    """Content hash of all that its records depend on."""
    model: str
    task: str
    template: str
    seed: int
    ks: tuple[int, ...]
    zero_shot_seeds: tuple[int, ...]
    """Seeds under which the K=0 records are written; empty when this unit has no K=0."""
    shard: int

    def cells(self) -> tuple[Cell, ...]:
        """Cells that the unit has records of."""
        seeds = {k: self.zero_shot_seeds if k == 0 else (self.seed,) for k in self.ks}
        return tuple(Cell(self.model, self.task, self.template, k, seed) for k in self.ks for seed in seeds[k])

    def n_records(self, n_samples: int) -> int:
        """Rows that the unit commits."""
        return n_samples * (len(self.ks) - (0 in self.ks) + len(self.zero_shot_seeds))


@dataclass(frozen=True)
class Plan:
    """All units of a run, model by model, and the shards they work on."""

    cells: tuple[Cell, ...]
    units: tuple[WorkUnit, ...]
    """Those over content-free inputs included."""
    shards: tuple[Shard, ...]
    """Those of content-free inputs last."""
    shard_size: int
    calibration_units: frozenset[str] = frozenset()
    """Ids of the units over content-free inputs: their records are no results."""

    @property
    def n_records(self) -> int:
        """Records of the whole run: cells x samples."""
        return sum(
            unit.n_records(len(self.shards[unit.shard].samples))
            for unit in self.units
            if unit.id not in self.calibration_units
        )


def make_cells(config: RunConfig) -> tuple[Cell, ...]:
    """The cells in the order of the grid."""
    return tuple(
        Cell(model, config.task.name, template, k, seed)
        for model in config.model_names
        for template in config.grid.templates
        for k in config.grid.k
        for seed in config.grid.seeds
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


def make_plan(prepared: Prepared, shard_size: int) -> Plan:
    """Cells, shards and units of a prepared run.

    Shards are cut from the samples in the nested order; see `Prepared.shard_order`.
    """
    from harness.planning.preparation import content_free  # heavy, and not needed to read units

    config = prepared.config
    samples = prepared.data.samples
    orders: dict[int | None, list[int]] = {}
    shards: list[Shard] = []
    seeds = config.grid.seeds
    policy = draw_of(config.demos)
    by_seed = policy.groups_samples and any(config.grid.k)
    for seed in seeds if by_seed else [None]:
        ordered = [samples[place] for place in prepared.shard_order(seeds[0] if seed is None else seed)]
        orders[seed] = []
        for start in range(0, len(ordered), shard_size):
            rows = tuple(ordered[start : start + shard_size])
            orders[seed].append(len(shards))
            shards.append(Shard(len(shards), rows, rows_hash(s.row() for s in rows)))
    units: list[WorkUnit] = []
    inputs = content_free(config, prepared.data)
    if inputs:
        shards.append(Shard(len(shards), inputs, rows_hash(s.row() for s in inputs)))
    calibration_units = set()
    for setup in prepared.models:
        fixed = _identity(prepared, setup)
        for template in config.grid.templates:
            for place, seed in enumerate(seeds):
                ks = tuple(k for k in config.grid.k if k > 0 or place == 0)
                zero_shot = tuple(seeds) if 0 in ks else ()
                if not ks:
                    continue
                extra = [shards[-1].index] if inputs else []
                for index in orders[seed if by_seed else None] + extra:
                    identity = {
                        **fixed,
                        "template": _wording(prepared.template(template)),
                        "seed": seed,
                        "ks": ks,
                        "zero_shot_seeds": zero_shot,
                        "rows": shards[index].hash,
                    }
                    units.append(
                        WorkUnit(
                            content_hash(identity),
                            setup.info.name,
                            config.task.name,
                            template,
                            seed,
                            ks,
                            zero_shot,
                            index,
                        )
                    )
                    if index in extra:
                        calibration_units.add(units[-1].id)
    return Plan(make_cells(config), tuple(units), tuple(shards), shard_size, frozenset(calibration_units))


def grid_identity(prepared: Prepared) -> dict[str, Any]:
    """What decides a run's results, in plain data: a run directory belongs to one of these."""
    config = prepared.config
    return {
        "task": {**_task_options(config), "version": prepared.task.version},
        "samples": rows_hash(s.row() for s in prepared.data.samples),
        "pool": rows_hash(s.row() for s in prepared.data.pool),
        "models": {setup.info.name: setup.info.told_identity for setup in prepared.models},
        "model": {key: value for key, value in asdict(config.model).items() if key in _MODEL_KEYS},
        **_engines(prepared),
        "templates": {name: _wording(prepared.template(name)) for name in config.grid.templates},
        "grid": asdict(config.grid),
        "demos": asdict(config.demos),
        **_scoring(prepared),
        "engine": {"share_prefixes": config.engine.share_prefixes},
        "records": RECORDS_VERSION,
        **_readings(prepared),
    }


def _task_options(config: RunConfig) -> dict[str, Any]:
    """Without how samples were drawn: the content of those that were is part of the identity."""
    return {key: value for key, value in asdict(config.task).items() if key != "draw"}


def _readings(prepared: Prepared) -> dict[str, Any]:
    """What the prompts depend on besides, where they do; runs that began earlier read some of it otherwise."""
    templates = [prepared.template(name) for name in prepared.config.grid.templates]
    started = [
        f"{setup.info.name}: {template.name}"
        for setup in prepared.models
        for template in templates
        if not template.chat and start_of(template, setup.tokenizer) != setup.tokenizer.bos
    ]
    return {
        **({"special_tokens_in_data": "text"} if any(setup.notes for setup in prepared.models) else {}),
        **({"templates_with_start_token": started} if started else {}),
        **({"chat_time": prepared.chat_time} if prepared.chat_time else {}),
    }


def _engines(prepared: Prepared) -> dict[str, Any]:
    """Engines that are not `local`, and settings of models with names; earlier runs say neither."""
    models = {setup.info.name: setup.info.model for setup in prepared.models}
    engines = {name: model.engine for name, model in models.items()}
    settings = {name: {key: getattr(model, key) for key in _MODEL_KEYS} for name, model in models.items()}
    return {
        **({"engines": engines} if set(engines.values()) != {"local"} else {}),
        **({"model_settings": settings} if prepared.config.models else {}),
    }


_MODEL_KEYS = ("revision", "dtype", "trust_remote_code", "max_length")


def _scoring(prepared: Prepared) -> dict[str, Any]:
    """How answers are taken, as far as it matters to the run's method."""
    generation = asdict(prepared.config.generation) if prepared.method == "generate" else None
    return {"scoring": prepared.method, "generation": generation}


def _identity(prepared: Prepared, setup: ModelSetup) -> dict[str, Any]:
    config = prepared.config
    twins = sum(_same_work(other, setup) for other in prepared.models)
    return {
        "records": RECORDS_VERSION,
        "task": [prepared.task.name, prepared.task.version],
        "model": setup.info.identity,
        # Copies of one model under several names are models of their own.
        **({"model_name": setup.info.name} if twins > 1 else {}),
        **({"engine": setup.info.model.engine} if setup.info.model.engine != "local" else {}),
        "dtype": setup.info.model.dtype,
        "pool": setup.pool_hash,
        "demos": asdict(config.demos),
        **_scoring(prepared),
        "sharing": config.engine.share_prefixes,
        # Sequential draws depend on every test position before a sample's own.
        "order": rows_hash(s.row() for s in prepared.data.samples) if setup.draw.policy.is_sequential else None,
    }


def _same_work(one: ModelSetup, other: ModelSetup) -> bool:
    """Whether nothing but their names tells the units of two models apart."""
    models = [(setup.info.identity, setup.info.model.engine, setup.info.model.dtype) for setup in (one, other)]
    return models[0] == models[1]


def _wording(template: Template) -> dict[str, Any]:
    """What of a template reaches the model; its description does not."""
    return {key: value for key, value in asdict(template).items() if key != "description"}
