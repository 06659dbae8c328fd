"""The `audit` verb: what number format and packing change, held against float32.

Some samples of the grid are computed three times in this process: in float32 with every prompt by
itself, in the run's number format with every prompt by itself, and as the run computes them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from harness.analysis.agreement import (
    AnswerAgreement,
    Floats,
    ScoreAgreement,
    compare_answers,
    compare_scores,
    packing_adds,
)
from harness.config.schema import RunConfig
from harness.core.errors import ConfigError, NotFiniteError, RequestError
from harness.core.task import NO_CLASS, LabelScores, Sample
from harness.engine.protocol import GENERATE, Generations, Scores
from harness.engine.registry import find_engine
from harness.planning.lengths import measure
from harness.planning.preparation import ModelSetup, Prepared, prepare
from harness.planning.units import choose_shard_size
from harness.prompts.prompt import Prompt
from harness.prompts.rendering import chunks
from harness.results import manifest as manifests
from harness.results.lock import RunLock
from harness.results.store import RunStore
from harness.running.asking import Asking, open_settings
from harness.running.cleaning import answer_of
from harness.running.growing import grow
from harness.running.judging import predicted

log = logging.getLogger(__name__)
NAME = "audit.json"
REFERENCE, ALONE, RUN = "reference", "alone", "run"
"""float32 and every prompt by itself; the run's number format likewise; as the run computes."""


@dataclass(frozen=True)
class Answers:
    """What one engine says to some prompts: log-probabilities and predictions, or texts."""

    logprobs: Floats | None = None
    """`(n_prompts, n_labels)`, nats."""
    predictions: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class TemplateAudit:
    """One (model, template) over the audited samples, all K and seeds."""

    model: str
    template: str
    run: ScoreAgreement | AnswerAgreement
    """The run's way against the reference."""
    alone: ScoreAgreement | AnswerAgreement
    """The run's number format, every prompt by itself, against the reference."""

    @property
    def packing_adds(self) -> bool:
        """Whether packing changes more than the number format explains."""
        return packing_adds(self.run, self.alone)


@dataclass(frozen=True)
class AuditReport:
    """A finished audit."""

    n_samples: int
    method: str
    templates: tuple[TemplateAudit, ...]
    engines: dict[str, dict[str, Any]]
    """Per model, what its engines said of themselves, by `REFERENCE`, `ALONE` and `RUN`."""
    stored_in: str | None = None
    """The run directory that holds it."""

    @property
    def is_well(self) -> bool:
        """Whether packing changes nothing that the number format does not."""
        return not any(audit.packing_adds for audit in self.templates)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for `audit.json` and the manifest."""
        return {
            "format": 1,
            "n_samples": self.n_samples,
            "method": self.method,
            "is_well": self.is_well,
            "templates": [{**asdict(audit), "packing_adds": audit.packing_adds} for audit in self.templates],
            "engines": self.engines,
        }


def audit(config: RunConfig, n_samples: int) -> AuditReport:
    """Audit a configuration, and store the result in its run directory if there is one.

    Args:
        config: of the run.
        n_samples: how many of its samples, evenly spread; fewer when it has fewer.

    Raises:
        UserError: what `run` would refuse; a run directory of another configuration, or in use.
    """
    if n_samples < 1:
        raise ConfigError(f"--samples is {n_samples}, expected at least 1")
    prepared = prepare(config)
    samples = spread(prepared.data.samples, n_samples)
    budgets = measure(prepared, shard_size=len(prepared.data.samples))
    store = RunStore(config.run_dir)
    stored = store.exists(manifests.NAME)
    lock: AbstractContextManager[Any] = RunLock(store) if stored else nullcontext()
    with ExitStack() as stack:
        stack.enter_context(lock)
        if stored:
            prepared = grow(store, manifests.read_manifest(store, "config", "identity", "n_samples"), prepared).prepared
        templates: list[TemplateAudit] = []
        engines: dict[str, dict[str, Any]] = {}
        for setup in prepared.models:
            longest = max(b.longest_prompt for b in budgets if b.model == setup.name)
            found, facts = _audit_model(prepared, setup, samples, longest)
            templates += found
            engines[setup.name] = facts
        report = AuditReport(len(samples), prepared.method, tuple(templates), engines)
        if not stored:
            return report
        manifest = manifests.read_manifest(store)
        manifest["audit"] = {**report.as_dict(), "made": manifests.now()}
        store.write_json(NAME, manifest["audit"])
        store.write_json(manifests.NAME, manifest)
    return replace(report, stored_in=config.run_dir)


def spread(samples: Sequence[Sample], n: int) -> list[Sample]:
    """So many of the samples, evenly spread; all where there are fewer."""
    return [samples[i * len(samples) // n] for i in range(n)] if n < len(samples) else list(samples)


def _audit_model(
    prepared: Prepared, setup: ModelSetup, samples: Sequence[Sample], longest: int
) -> tuple[list[TemplateAudit], dict[str, Any]]:
    config = prepared.config
    size = choose_shard_size(config, len(prepared.data.samples), 1, prepared.method)
    ways = {
        REFERENCE: ("float32", False),
        ALONE: (setup.info.model.dtype, False),
        RUN: (setup.info.model.dtype, config.engine.share_prefixes),
    }
    said: dict[str, list[list[Answers]]] = {}
    facts: dict[str, Any] = {}
    for way, (dtype, shares) in ways.items():
        # One model in memory at a time.
        audited = AuditedModel(prepared, setup, dtype, shares, longest)
        facts[way] = audited.facts.as_dict()
        log.info("%s, %s: %s", setup.name, way, audited.facts)
        said[way] = [
            answers_of(prepared, setup, name, list(chunks(samples, size)), audited, way == RUN)
            for name in config.grid.templates
        ]
        del audited
    audits = [
        TemplateAudit(setup.name, name, agreement_of(reference, run), agreement_of(reference, alone))
        for name, reference, alone, run in zip(
            config.grid.templates, said[REFERENCE], said[ALONE], said[RUN], strict=True
        )
    ]
    return audits, facts


def answers_of(
    prepared: Prepared,
    setup: ModelSetup,
    template: str,
    shards: Sequence[Sequence[Sample]],
    audited: AuditedModel,
    together: bool,
) -> list[Answers]:
    """Unit by unit, all K of a seed over a shard: as a run takes them together, or prompt by prompt."""
    grid = prepared.config.grid
    found = []
    for place, seed in enumerate(grid.seeds):
        ks = [k for k in grid.k if k > 0 or place == 0]
        renderer = prepared.renderer(setup, template, seed)
        for shard in shards:
            prompts = renderer.prompts(shard, seed, ks) if ks else []
            if together and prompts:
                found.append(audited.answer(prompts))
            elif prompts:
                found.append(_joined([audited.answer([prompt]) for prompt in prompts]))
    log.info("%s: %d samples", template, sum(len(shard) for shard in shards))
    return found


def agreement_of(reference: Sequence[Answers], found: Sequence[Answers]) -> ScoreAgreement | AnswerAgreement:
    """How far two ways agree, unit by unit in the same order."""
    if reference[0].logprobs is None:
        return compare_answers([x for part in reference for x in part.texts], [x for part in found for x in part.texts])
    expected, scores = (
        np.concatenate([part.logprobs for part in way if part.logprobs is not None]) for way in (reference, found)
    )
    before, after = ([x for part in way for x in part.predictions] for way in (reference, found))
    return compare_scores(expected, scores, before, after)


def _joined(parts: Sequence[Answers]) -> Answers:
    """Answers to runs of prompts as one."""
    scores = [part.logprobs for part in parts if part.logprobs is not None]
    return Answers(
        np.concatenate(scores) if scores else None,
        tuple(x for part in parts for x in part.predictions),
        tuple(x for part in parts for x in part.texts),
    )


class AuditedModel:
    """A model opened in this process, asked as a worker asks it.

    Args:
        prepared: of the run.
        setup: the model.
        dtype: number format, as in `model.dtype`.
        share_prefixes: as in `engine.share_prefixes`.
        longest_prompt: of the grid, tokens.
    """

    def __init__(
        self, prepared: Prepared, setup: ModelSetup, dtype: str, share_prefixes: bool, longest_prompt: int
    ) -> None:
        self.prepared, self.setup = prepared, setup
        config, model = prepared.config, replace(setup.info.fixed, dtype=dtype)
        settings = replace(open_settings(config.engine, longest_prompt, share_prefixes), method=prepared.method)
        opened = find_engine(model.engine).open(model, settings)
        self.facts = opened.facts
        self._n_classes = len(prepared.task.class_names)
        self.asking = Asking(opened, prepared.method, prepared.task, config.generation, setup.tokenizer)

    def answer(self, prompts: Sequence[Prompt]) -> Answers:
        """Score or continue prompts together; those without a number are found by halving."""
        try:
            found = self.asking.ask(prompts, self.asking.prepare(prompts))
        except (NotFiniteError, RequestError):
            if len(prompts) > 1:
                middle = len(prompts) // 2
                return _joined([self.answer(prompts[:middle]), self.answer(prompts[middle:])])
            if self.prepared.method == GENERATE:
                return Answers(texts=("",))
            return Answers(np.full((1, self._n_classes), np.nan), (NO_CLASS,))
        return self._judged(prompts, found)

    def _judged(self, prompts: Sequence[Prompt], found: Scores | Generations) -> Answers:
        if isinstance(found, Generations):
            settings, decode = self.prepared.config.generation, self.setup.tokenizer.decode
            written = zip(prompts, found.tokens, strict=True)
            return Answers(texts=tuple(answer_of(decode(tokens), prompt, settings)[1] for prompt, tokens in written))
        predictions = []
        logprobs = np.empty((len(prompts), self._n_classes))
        for place, prompt in enumerate(prompts):
            counts = tuple(map(len, prompt.label_ids))
            row = found.logprobs[place, : len(counts)]
            # Where a sample has fewer choices than others, its first stands for those that are not there.
            logprobs[place] = np.pad(row, (0, self._n_classes - len(row)), constant_values=row[0])
            scores = LabelScores(
                tuple(row.tolist()), counts, int(found.argmax[place]), float(found.off_label_mass[place])
            )
            predictions.append(predicted(self.prepared.task, prompt, scores))
        return Answers(logprobs, tuple(predictions))
