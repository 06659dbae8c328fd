"""From a configuration to everything a run needs, checked: data, templates, pools, tokenizers.

All that the user can get wrong is found here, before a model is loaded.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from harness.config.schema import AUTO, ModelEntry, RunConfig
from harness.core.errors import ConfigError, DataError, TemplateError
from harness.core.foreign import blamed_on
from harness.core.hashing import rows_hash
from harness.core.sampling import nested_order
from harness.core.task import CONTENT_FREE, Sample, Task, TaskData, find_task
from harness.core.task_data import load_data
from harness.core.task_options import configured
from harness.engine.protocol import ModelDescription
from harness.engine.registry import describe
from harness.planning.curve import CurveSetup, set_up_curve
from harness.planning.metrics import check_metrics, check_order, notes_on_numbers
from harness.planning.references import ReferenceSetup, set_up_references
from harness.planning.sample_notes import notes_on_giveaways, notes_on_repeats, notes_on_spelling
from harness.prompts.demonstrations import Pool, PoolDraw
from harness.prompts.draws import LectureTable, draw_of
from harness.prompts.literals import notes_on_literals
from harness.prompts.rendering import Renderer
from harness.prompts.templates import Template, choose_templates, read_templates
from harness.prompts.tokenizing import PromptTokenizer

log = logging.getLogger(__name__)
TOKENISED_AT_ONCE = 10_000
"""Texts of the pool: what the tokenizer says of each takes far more memory than its length."""


@dataclass(frozen=True)
class ModelSetup:
    """One model with the demonstration pool that its tokenizer allows."""

    info: ModelDescription
    tokenizer: PromptTokenizer
    draw: PoolDraw
    pool_lengths: Sequence[int]
    """Tokens of every pool document, before the limit."""
    notes: tuple[str, ...] = ()
    """Samples and demonstrations whose text spells special tokens of this model."""
    recorded_name: str | None = None
    """What an earlier session called the model, where it lies elsewhere now."""

    @property
    def name(self) -> str:
        """What records call the model."""
        return self.recorded_name or self.info.name

    @cached_property
    def pool_hash(self) -> str:
        """Identity of the limited pool."""
        return rows_hash(s.row() for s in self.draw.pool.samples)


@dataclass(frozen=True)
class Prepared:
    """A checked run."""

    config: RunConfig
    task: Task
    data: TaskData
    templates: Mapping[str, Template]
    models: tuple[ModelSetup, ...]
    method: str
    """`likelihood` or `generate`."""
    references: tuple[ReferenceSetup, ...] = ()
    curve: tuple[CurveSetup, ...] = ()
    """Ways to learn from labelled examples."""
    curve_notes: tuple[str, ...] = ()
    recorded_models: tuple[str, ...] = ()
    """Names of the models that earlier sessions had, in the order in which they came."""

    @property
    def setups(self) -> tuple[ModelSetup | ReferenceSetup | CurveSetup, ...]:
        """What is opened in turn: models, then references, then what is trained."""
        return (*self.models, *self.references, *self.curve)

    @property
    def by_age(self) -> tuple[ModelSetup, ...]:
        """The models, those first that the run has had longer."""
        ages = {name: age for age, name in enumerate(self.recorded_models)}
        return tuple(sorted(self.models, key=lambda setup: ages.get(setup.name, len(ages))))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the loaders dropped, changed or passed over, in data and model folders."""
        models = (note for setup in self.models for note in setup.info.notes)
        references = (reference.note for reference in self.references if reference.note)
        return (
            *self.data.notes,
            *models,
            *(note for setup in self.models for note in setup.notes),
            *references,
            *self.curve_notes,
        )

    @property
    def chat_time(self) -> str | None:
        """The time that prompts hold; None where no chat template writes it."""
        timed = [setup.tokenizer for setup in self.models if setup.tokenizer.writes_time]
        return timed[0].chat_time if timed and any(t.chat for t in self.templates.values()) else None

    def as_recorded(self, identity: Mapping[str, Any]) -> Prepared:
        """The run with its models called as an earlier session called them, where that still holds, at its time.

        A model that has moved keeps its name: the content of its files tells which it is. Runs used to know a model
        by the two ends of its large files. Such a run goes on under that identity.

        Args:
            identity: of the run directory.
        """
        models: list[ModelSetup] = []
        known: Mapping[str, Any] = identity["models"]
        gone = [name for name in known if name not in self.config.model_names]
        for setup in self.models:
            info, name = setup.info, setup.name
            setup.tokenizer.chat_time = identity.get("chat_time") or setup.tokenizer.chat_time
            if name not in known:
                name = next((other for other in gone if info.is_known_as(known[other])), name)
                if name in gone:
                    gone.remove(name)
                    log.info("%s is the model that the run calls %s", setup.name, name)
            info = info.as_recorded(known.get(name))
            models.append(dataclasses.replace(setup, info=info, recorded_name=name))
        return dataclasses.replace(self, models=tuple(models), recorded_models=tuple(known))

    def template(self, name: str) -> Template:
        """A template of the grid."""
        return self.templates[name]

    @cached_property
    def nested_order(self) -> list[int]:
        """Places of the samples in the order of `task.sample_seed`."""
        return nested_order(self.data.samples, self.config.task.sample_seed)

    def shard_order(self, seed: int) -> list[int]:
        """Places of the samples in the order in which shards are cut for one seed.

        Where a policy groups samples, those of one group are neighbours, so that they meet in one unit.
        """
        policy, samples = draw_of(self.config.demos), self.data.samples
        if not policy.groups_samples or not self.largest_k:
            return self.nested_order
        return sorted(self.nested_order, key=lambda place: policy.group(seed, samples[place].id))

    @property
    def largest_k(self) -> int:
        """The grid's largest number of demonstrations."""
        return max(self.config.grid.k)

    def renderer(self, setup: ModelSetup, template: str, seed: int) -> Renderer:
        """The renderer of one (model, template); `seed` matters to sequential policies only."""
        lecture = self.lecture_table(setup, seed)
        return Renderer(self.template(template), setup.draw, self.largest_k, setup.tokenizer, lecture)

    def lecture_table(self, setup: ModelSetup, seed: int) -> LectureTable | None:
        """All draws of a seed, where the policy is sequential."""
        return setup.draw.table(self.data.samples, seed, self.config.grid.k)


def prepare(config: RunConfig) -> Prepared:
    """Load data, templates and tokenizers, and check them against each other.

    Raises:
        UserError: whatever is wrong, in one line.
    """
    has_told_classes = not isinstance(config.task.options, Mapping) or bool(config.task.options.get("classes"))
    task, task_config = configured(find_task(config.task.name), config.task)
    config = dataclasses.replace(config, task=task_config)
    method = _method(config, task)
    _check_calibration(config, task, method)
    check_metrics(config, task)
    check_order(config, task, has_told_classes)
    if config.demos.balanced and not task.class_names:
        raise ConfigError(f"demos.balanced needs classes, but the answers of task '{task.name}' are generated; drop it")
    files = [file for file in (task.templates, config.task.templates_file) if file is not None]
    known = {name: t for file in files for name, t in read_templates(file, task.class_names, task.choices).items()}
    data = _shortened(task, load_data(task, config.task), config.demos.context_chars)
    templates = choose_templates(config.grid.templates, known, set(data.samples[0].fields))
    began = datetime.now().isoformat(timespec="seconds")
    models = tuple(_set_up(config, task, data, model, began) for model in config.entries)
    for setup in models:
        _check_engine(setup, method)
        for template in templates:
            _check_chat(template, setup, method)
    said = [*notes_on_numbers(config, data), *notes_on_giveaways(task, data, templates)]
    said += [*notes_on_repeats(task, data, templates), *notes_on_spelling(data)]
    data = dataclasses.replace(data, notes=[*data.notes, *said])
    references = set_up_references(config, task, data)
    curve, notes = set_up_curve(config, task, data)
    return Prepared(config, task, data, {t.name: t for t in templates}, models, method, references, curve, notes)


def _shortened(task: Task, data: TaskData, context_chars: int | None) -> TaskData:
    if context_chars is None:
        return data
    if task.shorten is None:
        raise ConfigError(
            f"demos.context_chars is {context_chars}, but task '{task.name}' has no contexts to shorten; drop it"
        )
    with blamed_on(
        f"task '{task.name}': shortening a demonstration", "mend the task, or drop demos.context_chars", DataError
    ):
        pool = [task.shorten(solved, context_chars) for solved in data.pool]
    return dataclasses.replace(data, pool=pool, raw_pool_texts=None)


def content_free(arms: Sequence[str], data: TaskData) -> tuple[Sample, ...]:
    """The inputs without content that calibration arms (`scoring.calibration`) need.

    `N/A`, nothing and `[MASK]` for contextual calibration (Zhao et al. 2021, arXiv 2102.09690);
    nothing alone, as the domain's own prompt, for domain-conditional PMI (Holtzman et al. 2021,
    arXiv 2104.08315). Where samples bring choices there is one for each, with its choices.
    """
    if arms and data.samples[0].choices:
        return tuple(
            dataclasses.replace(sample, id=CONTENT_FREE + sample.id, fields=dict.fromkeys(sample.fields, ""))
            for sample in data.samples
        )
    texts = ("N/A", "", "[MASK]") if "contextual" in arms else ("",) if arms else ()
    names = list(data.samples[0].fields)
    return tuple(Sample(CONTENT_FREE + text, dict.fromkeys(names, text)) for text in texts)


def _check_calibration(config: RunConfig, task: Task, method: str) -> None:
    if not config.scoring.calibration:
        return
    if method != "likelihood":
        raise ConfigError("scoring.calibration needs label log-probabilities; use it with scoring.method=likelihood")
    if task.choices and "contextual" in config.scoring.calibration:
        raise ConfigError(
            f"scoring.calibration is {config.scoring.calibration}, but task '{task.name}' has other choices for each "
            "sample; expected [domain]"
        )
    if not draw_of(config.demos).serves_all_alike and any(config.grid.k):
        raise ConfigError(
            f"scoring.calibration is {config.scoring.calibration}, but demos.policy='{config.demos.policy}' gives "
            "samples different demonstrations, so that no one input stands for a cell; use demos.policy=fixed"
        )


def _method(config: RunConfig, task: Task) -> str:
    """`likelihood` or `generate`."""
    if config.scoring.method == "likelihood" and task.generates:
        raise ConfigError(f"scoring.method is 'likelihood', but task '{task.name}' has no labels; use generate or auto")
    if config.scoring.method == AUTO:
        return "generate" if task.generates else "likelihood"
    return config.scoring.method


def _check_chat(template: Template, setup: ModelSetup, method: str) -> None:
    """Refuse what a template asks of a model's chat template that it has not."""
    if template.thinks and method != "generate":
        raise TemplateError(
            f"template '{template.name}' says `thinking: on`, so that its answers are written, but labels are "
            "compared; set scoring.method=generate, or thinking: off"
        )
    if template.thinks and not setup.tokenizer.can_think:
        raise TemplateError(
            f"template '{template.name}' says `thinking: on`, but the chat template of model '{setup.name}' has no "
            "switch for it (enable_thinking); set thinking: off"
        )
    begins = "answer_prefix" if template.answer_prefix else "thinking: on" if template.thinks else ""
    if begins and not setup.info.takes_rendered_chats:
        raise TemplateError(
            f"template '{template.name}' says {begins}, but engine '{setup.info.model.engine}' of model "
            f"'{setup.name}' may send chats as messages, which do not say it; drop it, or take another engine"
        )
    if template.system and not template.merges_system and not setup.tokenizer.knows_system:
        raise TemplateError(
            f"template '{template.name}' has a system message, but the chat template of model '{setup.name}' has no "
            "system role; set without_system: merge to put it into the user's first message, or use prefix"
        )


def _check_engine(setup: ModelSetup, method: str) -> None:
    """Refuse a model whose engine cannot answer in the run's way."""
    if method not in setup.info.methods:
        can = " and ".join(sorted(setup.info.methods))
        raise ConfigError(
            f"model '{setup.name}': its engine '{setup.info.model.engine}' can {can}, but the run's method is "
            f"{method}; set scoring.method, or take another engine"
        )


def _set_up(config: RunConfig, task: Task, data: TaskData, model: ModelEntry, began: str) -> ModelSetup:
    info = describe(model)
    tokenizer = PromptTokenizer(info.tokenizer, began)
    texts = data.raw_pool_texts or [s.fields[data.length_field] for s in data.pool]
    starts = range(0, len(texts), TOKENISED_AT_ONCE)
    lengths = [len(ids) for i in starts for ids in tokenizer.whole_batch(texts[i : i + TOKENISED_AT_ONCE])]
    limit = config.demos.max_tokens
    chosen = [s for s, n in zip(data.pool, lengths, strict=True) if limit is None or n <= limit]
    pool = Pool(tuple(chosen), len(task.class_names), data.length_field)
    draw = PoolDraw(pool, draw_of(config.demos), config.demos.balanced)
    draw.check_size(max(config.grid.k), data.samples)
    asked = [*data.samples, *content_free(config.scoring.calibration, data)]
    shown = pool.samples if any(config.grid.k) else ()
    notes = (
        *notes_on_literals(tokenizer.literals, asked, "samples", model.name),
        *notes_on_literals(tokenizer.literals, shown, "demonstrations", model.name),
    )
    return ModelSetup(info, tokenizer, draw, lengths, notes)
