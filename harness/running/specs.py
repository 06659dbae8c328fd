"""What replicas of each model, reference and learner take and are told: from a prepared run to a `WorkerSpec`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.engine.protocol import ModelDescription, Resources
from harness.planning.preparation import ModelSetup, Prepared
from harness.planning.references import ReferenceSetup
from harness.prompts.demonstrations import PoolDraw
from harness.running.messages import LearningSpec, LectureTable, ReferenceSpec, WorkerSpec

CLASSIFY = "classify"
"""The method of references: they are asked nothing."""


@dataclass(frozen=True)
class Grids:
    """What is known of each model's prompts, by its name."""

    longest: Mapping[str, int]
    """Tokens of the longest prompt."""
    tokens: Mapping[str, int]
    """Of all, every shared one counted once per shard."""


def resources_of(prepared: Prepared) -> list[Resources]:
    """What replicas of each model, reference and learner take."""
    return [setup.info.resources for setup in prepared.setups]


def lecture_of(prepared: Prepared, model: str) -> dict[int, LectureTable]:
    """Draws per seed of a model, where the policy is sequential."""
    setups = [setup for setup in prepared.models if setup.name == model]
    seeds = prepared.config.grid.seeds
    tables = {seed: prepared.lecture_table(setup, seed) for setup in setups for seed in seeds}
    return {seed: table for seed, table in tables.items() if table is not None}


def opening(prepared: Prepared, name: str, grids: Grids, spent: float) -> tuple[ModelDescription, PoolDraw, WorkerSpec]:
    """What is opened, the rows of the pool that it takes, and how.

    Args:
        prepared: the run.
        name: of the model, reference or learner.
        grids: of the models.
        spent: by earlier sessions on this model, in the currency of its prices.
    """
    setup = next(setup for setup in prepared.setups if setup.name == name)
    config, info = prepared.config, setup.info
    if isinstance(setup, ModelSetup):
        spec = WorkerSpec(
            config, info.fixed, prepared.method, prepared.templates, info.context_length, grids.longest[name],
            info.resources, chat_time=setup.tokenizer.chat_time, tokens=grids.tokens[name], spent=spent,
        )  # fmt: skip
        return info, setup.draw, spec
    plain = WorkerSpec(config, info.fixed, CLASSIFY, {}, info.context_length, 1, info.resources)
    if isinstance(setup, ReferenceSetup):
        reference = ReferenceSpec(setup.purpose, setup.fields, setup.labels, setup.order)
        return info, setup.rows, replace(plain, reference=reference)
    learning = LearningSpec(setup.fields, setup.settings.learning_rate, setup.settings.keep)
    # A training may take as long as it likes.
    patient = replace(config, run=replace(config.run, hang_after_s=0.0))
    return info, setup.rows, replace(plain, config=patient, learning=learning)
