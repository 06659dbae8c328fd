"""What decides results, as plain data: of a whole run, and of the records of one model and template.

Knows names, settings and content hashes; refuses to know units and storage.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from harness.config.schema import MOVED_OPTIONS
from harness.core.hashing import rows_hash
from harness.core.task import Sample
from harness.prompts.rendering import start_of
from harness.prompts.templates import Template

if TYPE_CHECKING:
    from harness.planning.curve import CurveSetup
    from harness.planning.preparation import ModelSetup, Prepared
    from harness.planning.references import ReferenceSetup

RECORDS_VERSION = 2
"""Part of every cell's identity: raise it when records change their meaning."""


def grid_identity(prepared: Prepared, samples: Sequence[Sample] | None = None) -> dict[str, Any]:
    """What decides a run's results, in plain data; names and places of data, models and templates do not.

    Args:
        prepared: the run.
        samples: those of the run in the order that its directory keeps them; None takes that of the data.
    """
    config = prepared.config
    return {
        "task": task_identity({**asdict(config.task), "version": prepared.task.version}),
        "samples": rows_hash(s.row() for s in (prepared.data.samples if samples is None else samples)),
        "pool": rows_hash(s.row() for s in prepared.data.pool),
        "models": {setup.name: setup.info.told_identity for setup in prepared.by_age},
        "model": {key: value for key, value in asdict(config.model).items() if key in _MODEL_KEYS},
        **_engines(prepared),
        "templates": {name: wording_of(prepared.template(name)) for name in config.grid.templates},
        "grid": asdict(config.grid),
        "demos": asdict(config.demos),
        **_scoring(prepared),
        "engine": {"share_prefixes": config.engine.share_prefixes},
        "records": RECORDS_VERSION,
        **_references(prepared),
        **_readings(prepared),
    }


def task_identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A task's settings without where things lie and how many samples were drawn how: their content counts.

    Options that once stood beside the others are among `options`, as they are now.
    """
    names = ("data_dir", "templates_file", "limit", "draw", "options", *MOVED_OPTIONS)
    moved = {key: settings[key] for key in MOVED_OPTIONS if key in settings}
    kept = {key: value for key, value in settings.items() if key not in names}
    return {**kept, "options": {**moved, **settings.get("options", {})}}


def _readings(prepared: Prepared) -> dict[str, Any]:
    """What the prompts depend on besides, where they do; runs that began earlier read some of it otherwise."""
    templates = [prepared.template(name) for name in prepared.config.grid.templates]
    started = [
        f"{setup.name}: {template.name}"
        for setup in prepared.models
        for template in templates
        if not template.chat and start_of(template, setup.tokenizer) != setup.tokenizer.bos
    ]
    return {
        **({"special_tokens_in_data": "text"} if any(setup.notes for setup in prepared.models) else {}),
        **({"controls_in_data": "text"} if any(_spells_controls(setup, prepared) for setup in prepared.models) else {}),
        **({"templates_with_start_token": started} if started else {}),
        **({"chat_time": prepared.chat_time} if prepared.chat_time else {}),
    }


def _spells_controls(setup: ModelSetup, prepared: Prepared) -> bool:
    """Whether data spells control tokens that the tokenizer does not call special; earlier runs took them for such."""
    literals = setup.tokenizer.literals
    if not setup.notes or not literals.controls:
        return False
    samples = [*prepared.data.samples, *setup.draw.pool.samples]
    return any(not set(literals.controls).isdisjoint(literals.found_in(sample)) for sample in samples)


def _engines(prepared: Prepared) -> dict[str, Any]:
    """Engines that are not `local`, and settings of models with names; earlier runs say neither."""
    models = {setup.name: setup.info.model for setup in prepared.models}
    engines = {name: model.engine for name, model in models.items()}
    settings = {name: {key: getattr(model, key) for key in _MODEL_KEYS} for name, model in models.items()}
    return {
        **({"engines": engines} if set(engines.values()) != {"local"} else {}),
        **({"model_settings": settings} if prepared.config.models else {}),
    }


def _references(prepared: Prepared) -> dict[str, Any]:
    """Where a run has any; runs of early versions have none."""
    found = {one.name: one.identity for one in prepared.references}
    found |= {one.name: one.identity for one in prepared.curve}
    given = prepared.config.finetune
    curve = {"finetune": {"sizes": given.sizes, "seeds": given.seeds}} if prepared.curve else {}
    return ({"references": found} if found else {}) | curve


_MODEL_KEYS = ("revision", "dtype", "trust_remote_code", "max_length")


def _scoring(prepared: Prepared) -> dict[str, Any]:
    """How answers are taken, as far as it matters to the run's method."""
    generation = asdict(prepared.config.generation) if prepared.method == "generate" else None
    return {"scoring": prepared.method, "generation": generation}


def cell_identity(prepared: Prepared, setup: ModelSetup) -> dict[str, Any]:
    """What all records of one model depend on, in plain data."""
    config = prepared.config
    earlier = itertools.takewhile(lambda other: other is not setup, prepared.by_age)
    is_copy = any(_same_work(other, setup) for other in earlier)
    return {
        "records": RECORDS_VERSION,
        "task": [prepared.task.name, prepared.task.version],
        "model": setup.info.identity,
        # Copies of one model under several names are models of their own; the first needs no name.
        **({"model_name": setup.name} if is_copy else {}),
        **({"engine": setup.info.model.engine} if setup.info.model.engine != "local" else {}),
        "dtype": setup.info.model.dtype,
        "pool": setup.pool_hash,
        "demos": asdict(config.demos),
        **_scoring(prepared),
        "sharing": config.engine.share_prefixes,
        # Sequential draws depend on every test position before a sample's own.
        "order": rows_hash(s.row() for s in prepared.data.samples) if setup.draw.policy.is_sequential else None,
    }


def reference_identity(prepared: Prepared, reference: ReferenceSetup) -> dict[str, Any]:
    """What all records of one reference depend on, in plain data. Its name counts: there is no other copy of it."""
    return {
        "records": RECORDS_VERSION,
        "task": [prepared.task.name, prepared.task.version],
        "reference": reference.name,
        **reference.identity,
        "rows": rows_hash(row.row() for row in reference.rows.pool.samples),
    }


def training_identity(prepared: Prepared, curve: CurveSetup, n: int, seed: int) -> dict[str, Any]:
    """What the records of one training depend on, in plain data."""
    return {
        "records": RECORDS_VERSION,
        "task": [prepared.task.name, prepared.task.version],
        **curve.identity,
        "n": n,
        "seed": seed,
        "examples": curve.examples_hash(n, seed),
    }


def _same_work(one: ModelSetup, other: ModelSetup) -> bool:
    """Whether nothing but their names tells the units of two models apart."""
    models = [(setup.info.identity, setup.info.model.engine, setup.info.model.dtype) for setup in (one, other)]
    return models[0] == models[1]


def wording_of(template: Template) -> dict[str, Any]:
    """What of a template reaches the model; its description does not.

    Keys that templates had not at first are left out where they say nothing, so that earlier runs go on.
    """
    wording = {key: value for key, value in asdict(template).items() if key != "description"}
    return {key: value for key, value in wording.items() if key not in _LATER or value != _LATER[key]}


_LATER_NAMES = ("choices", "is_exact", "system", "merges_system", "answer_prefix", "thinks")
_LATER = {field.name: field.default for field in fields(Template) if field.name in _LATER_NAMES}
