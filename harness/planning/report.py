"""The `plan` and `prompts` verbs: what a grid would compute, without loading a model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.analysis.race_rules import Rules
from harness.config.schema import RunConfig
from harness.engine.protocol import GENERATE, Asked, Load, ReplicaMemory
from harness.engine.protocol import Expense as Expense
from harness.planning.lengths import TemplateBudget, measure
from harness.planning.preparation import ModelSetup, Prepared, prepare
from harness.planning.race_order import race_order
from harness.planning.units import choose_shard_size, make_cells
from harness.prompts.audit import TemplateAudit, audit_template
from harness.prompts.literals import plain
from harness.prompts.rendering import chunks

if TYPE_CHECKING:
    from harness.analysis.race_cost import RaceCost


@dataclass(frozen=True)
class LengthAnalysis:
    """Token lengths of the pool's documents before the limit, as the lecture reports them."""

    model: str
    documents: int
    mean: float
    longest: int
    standard_deviation: float
    percentile_80: float
    in_pool: int
    """Documents that may be demonstrations: at most `demos.max_tokens` tokens."""
    context_length: int | None
    parameters: int | None


@dataclass(frozen=True)
class PlanReport:
    """What a grid would cost."""

    n_cells: int
    n_samples: int
    notes: tuple[str, ...]
    lengths: tuple[LengthAnalysis, ...]
    budgets: tuple[TemplateBudget, ...]
    audits: tuple[TemplateAudit, ...]
    examples: dict[str, str]
    """One rendered prompt per template, at the grid's smallest K above zero."""
    memory: tuple[ReplicaMemory, ...] = ()
    """Per model, on each device that the configuration allows."""
    expenses: tuple[Expense, ...] = ()
    """Per model that a server computes."""
    race: RaceCost | None = None
    """What `harness race` would take of the records; None where there is nothing to race."""

    @property
    def prompts(self) -> int:
        """Records of the whole grid."""
        return sum(b.prompts for b in self.budgets)

    @property
    def prompts_scored(self) -> int:
        """Prompts that go through a model."""
        return sum(b.prompts_scored for b in self.budgets)

    @property
    def tokens_one_pass(self) -> int:
        """Tokens as one pass per prompt."""
        return sum(b.tokens_one_pass for b in self.budgets)

    @property
    def tokens_unique(self) -> int:
        """Tokens when every shared token is computed once."""
        return sum(b.tokens_unique for b in self.budgets)


def make_report(config: RunConfig) -> PlanReport:
    """Check a configuration and work out its cost.

    Raises:
        UserError: everything that `run` would refuse before it loads a model.
    """
    prepared = prepare(config)
    shard_size = choose_shard_size(config, len(prepared.data.samples), replicas=1, method=prepared.method)
    budgets = measure(prepared, shard_size)
    audits = tuple(
        audit_template(prepared.renderer(setup, name, config.grid.seeds[0]), setup.name, prepared.data.samples)
        for setup in prepared.models
        for name in config.grid.templates
    )
    return PlanReport(
        len(make_cells(prepared)),
        len(prepared.data.samples),
        prepared.notes,
        tuple(_lengths(setup) for setup in prepared.models),
        tuple(budgets),
        audits,
        {name: _example(prepared, name) for name in config.grid.templates},
        _memory(prepared, budgets, shard_size),
        _expenses(prepared, budgets, audits),
        _race(prepared),
    )


def _expenses(
    prepared: Prepared, budgets: Sequence[TemplateBudget], audits: Sequence[TemplateAudit]
) -> tuple[Expense, ...]:
    labels = {(audit.model, audit.template): [len(tokens) for tokens in audit.label_tokens] for audit in audits}
    found = []
    for setup in prepared.models:
        asked = []
        for budget in (one for one in budgets if one.model == setup.name):
            counts = labels[budget.model, budget.template]
            generates = prepared.method == GENERATE
            most = max(counts, default=prepared.config.generation.max_new_tokens) if generates else 0
            asked.append(Asked(budget.prompts_scored, budget.tokens_one_pass, () if generates else counts, most))
        found.append(setup.info.expense(asked))
    return tuple(one for one in found if one is not None)


def _race(prepared: Prepared) -> RaceCost | None:
    settings = prepared.config.race
    grid = prepared.config.grid
    draws = len(grid.seeds) if settings.seeds == "each" else 1
    n_strategies = len(prepared.models) * len(grid.templates) * sum(draws if k else 1 for k in grid.k)
    n_samples = len(race_order(prepared.data.samples, settings).samples)
    if n_strategies < 2:
        return None
    from harness.analysis.race_cost import race_cost

    return race_cost(n_strategies, n_samples, Rules(settings.epsilon, settings.confidence), settings.pilot)


def memory_of(prepared: Prepared, shard_size: int) -> tuple[ReplicaMemory, ...]:
    """Predicted peak memory of a replica of each model, on each device that the configuration allows.

    Args:
        prepared: of the run.
        shard_size: samples per unit.
    """
    return _memory(prepared, measure(prepared, shard_size), shard_size)


def _memory(prepared: Prepared, budgets: Sequence[TemplateBudget], shard_size: int) -> tuple[ReplicaMemory, ...]:
    config = prepared.config
    units = len(config.grid.seeds) * max(1, math.ceil(len(prepared.data.samples) / shard_size))
    found: list[ReplicaMemory] = []
    for setup in prepared.models:
        loads = [
            Load(
                budget.longest_prompt,
                budget.tokens_unique // units,
                budget.tokens_one_pass // units,
                budget.prompts_scored / max(1, budget.tokens_unique),
                budget.prompts_scored / max(1, budget.tokens_one_pass),
                prepared.method == "generate",
            )
            for budget in budgets
            if budget.model == setup.name
        ]
        found += setup.info.memory(config.engine, loads)
    return tuple(found)


def prompt_lines(config: RunConfig, limit: int | None) -> Iterator[str]:
    """JSON lines, one per (cell, sample), exactly as the engine will see them.

    Args:
        config: the run's configuration.
        limit: stop after so many lines; None gives all.
    """
    prepared = prepare(config)
    written = 0
    several = len(prepared.models) > 1
    for setup in prepared.models:
        for name in config.grid.templates:
            for seed in config.grid.seeds:
                renderer = prepared.renderer(setup, name, seed)
                for k in config.grid.k:
                    for part in chunks(prepared.data.samples, 256):
                        for prompt in renderer.prompts(part, seed, [k]):
                            if limit is not None and written >= limit:
                                return
                            written += 1
                            line = {
                                "template": name,
                                "k": k,
                                "seed": seed,
                                "sample_id": prompt.sample.id,
                                "gold": list(prompt.sample.answers) or prompt.sample.gold,
                                **({"labels": list(prompt.labels)} if prompt.sample.choices else {}),
                                "text": prompt.text,
                                "token_ids": prompt.ids,
                            }
                            if several:
                                line = {"model": setup.name, **line}
                            yield json.dumps(line, ensure_ascii=False)


def _lengths(setup: ModelSetup) -> LengthAnalysis:
    lengths = np.asarray(setup.pool_lengths, dtype=np.float64)
    if not len(lengths):
        lengths = np.zeros(1)
    return LengthAnalysis(
        setup.name,
        len(setup.pool_lengths),
        float(lengths.mean()),
        int(lengths.max()),
        float(lengths.std()),
        float(np.percentile(lengths, 80)),
        len(setup.draw.pool.samples),
        setup.info.context_length,
        setup.info.parameters,
    )


def _example(prepared: Prepared, template: str) -> str:
    config = prepared.config
    k = min((k for k in config.grid.k if k > 0), default=0)
    seed = config.grid.seeds[0]
    renderer = prepared.renderer(prepared.models[0], template, seed)
    return plain("".join(renderer.segments(prepared.data.samples[0], seed, k)))
