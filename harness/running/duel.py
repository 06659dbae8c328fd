"""One engine or model held against another on the same prompts: `harness audit --against`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness.analysis.agreement import AnswerAgreement, ScoreAgreement
from harness.config.schema import ModelConfig, RunConfig
from harness.core.errors import ConfigError
from harness.core.task import Sample
from harness.planning.lengths import measure
from harness.planning.preparation import ModelSetup, Prepared, prepare
from harness.planning.units import choose_shard_size
from harness.prompts.rendering import chunks
from harness.running.audit import Answers, AuditedModel, agreement_of, answers_of, spread

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        model: its name.
        engine: its engine.
        facts: what the opened engine says of itself.
    """

    model: str
    engine: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class DuelReport:
    """Two engines on the same prompts.

    Attributes:
        n_samples: that were asked.
        method: `likelihood` or `generate`.
        first: the configuration's own.
        second: the one held against it.
        templates: template to how far they agree.
    """

    n_samples: int
    method: str
    first: Side
    second: Side
    templates: dict[str, ScoreAgreement | AnswerAgreement]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def duel(config: RunConfig, other: RunConfig, n_samples: int) -> DuelReport:
    """Ask two engines the same, each as a run would.

    Args:
        config: of one model.
        other: the same but for `model`.
        n_samples: how many samples, evenly spread.

    Raises:
        ConfigError: more differs than the model, or the two would see different prompts.
    """
    if replace(config, model=ModelConfig(), models=[]) != replace(other, model=ModelConfig(), models=[]):
        raise ConfigError("--against changes more than the model; expected keys of model alone, such as model.engine")
    if len(config.entries) != 1 or len(other.entries) != 1:
        raise ConfigError("--against holds one model against another; expected one model.path on both sides")
    both = [prepare(config), prepare(other)]
    samples = spread(both[0].data.samples, n_samples)
    _check_same_prompts(both, samples)
    sides: list[Side] = []
    said: list[list[Sequence[Answers]]] = []
    for prepared in both:
        setup = prepared.models[0]
        longest = max(budget.longest_prompt for budget in measure(prepared, len(prepared.data.samples)))
        # One model in memory at a time.
        audited = AuditedModel(prepared, setup, setup.info.model.dtype, prepared.config.engine.share_prefixes, longest)
        log.info("%s: %s", setup.name, audited.facts)
        size = choose_shard_size(config, len(prepared.data.samples), 1, prepared.method)
        shards = list(chunks(samples, size))
        said.append([answers_of(prepared, setup, name, shards, audited, True) for name in config.grid.templates])
        sides.append(Side(setup.name, setup.info.model.engine, audited.facts.as_dict()))
        del audited
    found = {
        name: agreement_of(first, second) for name, first, second in zip(config.grid.templates, *said, strict=True)
    }
    return DuelReport(len(samples), both[0].method, sides[0], sides[1], found)


def _check_same_prompts(both: Sequence[Prepared], samples: Sequence[Sample]) -> None:
    """Refuse two models whose tokenizers let them see different demonstrations.

    Chats are compared as messages: each model renders them in its own way.
    """
    for name in both[0].config.grid.templates:
        for seed in both[0].config.grid.seeds:
            for sample in samples[:10]:
                seen = [_shown(prepared, prepared.models[0], name, seed, sample) for prepared in both]
                if seen[0] != seen[1]:
                    raise ConfigError(
                        f"the two would see different prompts (template '{name}', sample '{sample.id}'): their "
                        "tokenizers count demonstrations otherwise; set demos.max_tokens=null"
                    )


def _shown(prepared: Prepared, setup: ModelSetup, template: str, seed: int, sample: Sample) -> list[str]:
    draw = prepared.renderer(setup, template, seed)
    return [setup.draw.pool.samples[i].id for i in draw.demonstrations(sample, seed, prepared.largest_k)]
