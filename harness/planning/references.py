"""References of a run, checked against its task: classifiers, readers and choosers that stand beside the prompts.

Knows labels, fields and rows of the pool; refuses to know weights, and how anything is trained or computed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from harness.config.schema import ReferenceEntry, RunConfig
from harness.core.errors import ConfigError, did_you_mean
from harness.core.sampling import nested_order
from harness.core.task import Sample, Task, TaskData
from harness.engine.choosing import Alternatives, paired
from harness.engine.classifying import Texts
from harness.engine.protocol import ModelDescription
from harness.engine.registry import find_chooser, find_classifier, find_reader
from harness.prompts.demonstrations import Pool, PoolDraw
from harness.prompts.draws import draw_of

CHECKED_ROWS = 256
"""Labelled rows of the pool on which the order of a classifier's classes is checked."""
COUNTED_AT_ONCE = 1_000
"""Samples whose tokens are counted together."""
MOST_TOKENS = 10**9
"""No limit, as tokenizers say it."""
QUESTION_AND_CONTEXT = ("question", "context")
"""Fields that a reader reads where samples have them and none are chosen."""


class Purpose(StrEnum):
    """What a reference does, which the task decides."""

    CLASSIFY = "classify"
    """It names one of the task's classes."""
    READ = "read"
    """It finds an answer in a text."""
    CHOOSE = "choose"
    """It picks one of the sample's choices."""

    @classmethod
    def of(cls, task: Task) -> Purpose:
        """What a reference of a task does."""
        return cls.READ if task.generates else cls.CHOOSE if task.choices else cls.CLASSIFY


@dataclass(frozen=True)
class ReferenceSetup:
    """One reference, and how it meets the task."""

    info: ModelDescription
    purpose: Purpose
    fields: tuple[str, ...]
    """Of a sample, that it reads."""
    rows: PoolDraw
    """Labelled rows on which a classifier's order of classes is checked; none for others."""
    labels: tuple[str, ...] = ()
    """Of a classifier, in its own order."""
    order: tuple[int, ...] | None = None
    """The task's class of each label, by their names; None where the names do not tell."""
    note: str = ""
    """What names tell, for the log."""

    @property
    def name(self) -> str:
        """What records call it."""
        return self.info.name

    @property
    def identity(self) -> dict[str, Any]:
        """What all its records depend on, in plain data."""
        entry = self.info.model
        windows = {}
        if self.purpose is Purpose.READ and isinstance(entry, ReferenceEntry):
            windows = {"stride": entry.stride, "max_answer_tokens": entry.max_answer_tokens}
        return {
            "files": self.info.told_identity,
            "engine": entry.engine,
            "dtype": entry.dtype,
            "fields": list(self.fields),
            "max_length": entry.max_length,
            **windows,
        }


def set_up_references(config: RunConfig, task: Task, data: TaskData) -> tuple[ReferenceSetup, ...]:
    """The references of a configuration, in its order.

    Raises:
        ConfigError: a classifier has another number of classes than the task, or samples lack a field.
        ModelError: a checkpoint with another head than the task asks for.
    """
    ways = {Purpose.CLASSIFY: _set_up_classifier, Purpose.READ: _set_up_reader, Purpose.CHOOSE: _set_up_chooser}
    set_up = ways[Purpose.of(task)]
    return tuple(
        set_up(config, task, data, entry, f"references[{place}]") for place, entry in enumerate(config.references)
    )


def _set_up_reader(config: RunConfig, task: Task, data: TaskData, entry: ReferenceEntry, where: str) -> ReferenceSetup:
    names = _question_fields(entry.fields, data, where)
    return ReferenceSetup(find_reader(entry.engine).describe(entry), Purpose.READ, names, _no_rows(config, task, data))


def _set_up_chooser(config: RunConfig, task: Task, data: TaskData, entry: ReferenceEntry, where: str) -> ReferenceSetup:
    names, rows = fields_of(entry.fields, data, where), _no_rows(config, task, data)
    info = find_chooser(entry.engine).describe(entry)
    asked = [paired(Alternatives(texts_of(sample, names), tuple(sample.choices))) for sample in data.samples]
    return ReferenceSetup(info, Purpose.CHOOSE, names, rows, note=note_on_length(info, f"reference {info.name}", asked))


def _no_rows(config: RunConfig, task: Task, data: TaskData) -> PoolDraw:
    return PoolDraw(Pool((), len(task.class_names), data.length_field), draw_of(config.demos))


def _question_fields(chosen: Sequence[str], data: TaskData, where: str) -> tuple[str, ...]:
    """The fields that hold a reader's question and its context."""
    known = list(data.samples[0].fields)
    if not chosen and set(QUESTION_AND_CONTEXT) <= set(known):
        return QUESTION_AND_CONTEXT
    if len(chosen) != 2:
        found = f"is {list(chosen)}" if chosen else f"is empty, and samples have {', '.join(known)}"
        raise ConfigError(
            f"{where}.fields {found}; a reference of a task whose answers are written finds them in a text: expected "
            "the field of the question and that of the text, such as [question, context]"
        )
    return fields_of(chosen, data, where)


def _set_up_classifier(
    config: RunConfig, task: Task, data: TaskData, entry: ReferenceEntry, where: str
) -> ReferenceSetup:
    names = fields_of(entry.fields, data, where)
    info = find_classifier(entry.engine).describe(entry)
    n_classes = len(task.class_names)
    if len(info.labels) != n_classes:
        raise ConfigError(
            f"{where}: '{entry.name}' has {len(info.labels)} classes ({', '.join(info.labels[:6])}), but task "
            f"'{task.name}' has {n_classes} ({', '.join(task.class_names[:6])}); expected a classifier of this task"
        )
    order = order_by_name(info.labels, task.class_names)
    what = "name no classes of the task; rows of the pool tell"
    if order is not None:
        what = "are the task's classes by name" + (", in another order" if list(order) != sorted(order) else "")
    # Without clusters: the rows are to be as different as they can.
    places = nested_order([Sample(row.id, row.fields, row.gold) for row in data.pool], 0)[:CHECKED_ROWS]
    rows = Pool(tuple(data.pool[place] for place in sorted(places)), n_classes, data.length_field)
    note = f"reference {entry.name}: its labels {', '.join(info.labels)} {what}"
    if cut := note_on_length(info, f"reference {entry.name}", [[texts_of(one, names)] for one in data.samples]):
        note += f"; {cut}"
    draw = PoolDraw(rows, draw_of(config.demos))
    return ReferenceSetup(info, Purpose.CLASSIFY, names, draw, info.labels, order, note)


def fields_of(chosen: Sequence[str], data: TaskData, where: str) -> tuple[str, ...]:
    """The fields that a reference reads: those chosen, the only one, or the one whose length counts.

    Raises:
        ConfigError: no such field, or several and none is chosen.
    """
    known = list(data.samples[0].fields)
    for name in chosen:
        if name not in known:
            raise ConfigError(f"{where}.fields names '{name}', which no sample has{did_you_mean(name, known)}")
    if not chosen and len(known) > 1:
        raise ConfigError(
            f"{where}.fields is empty, but samples have several fields ({', '.join(known)}); name the one that is to "
            "be read, or a pair such as [premise, hypothesis]"
        )
    return tuple(chosen) or (data.length_field,)


def texts_of(sample: Sample, fields: Sequence[str]) -> Texts:
    """What is read of a sample."""
    return tuple(sample.fields[name] for name in fields)


def note_on_length(info: ModelDescription, name: str, samples: Sequence[Sequence[Texts]]) -> str:
    """How many samples are longer than what is read of a text; an empty text where none is, or no limit is known.

    Args:
        info: of what reads; without a tokenizer each character is a token.
        name: in the note.
        samples: the inputs of each, one, or one for each choice.
    """
    tokenizer, limit = info.tokenizer, info.context_length
    limit = min(limit or MOST_TOKENS, int(min(getattr(tokenizer, "model_max_length", MOST_TOKENS), MOST_TOKENS)))
    if limit == MOST_TOKENS:
        return ""
    n_long = 0
    for start in range(0, len(samples), COUNTED_AT_ONCE):
        some = samples[start : start + COUNTED_AT_ONCE]
        inputs = [one for sample in some for one in sample]
        if tokenizer is None:
            lengths = [sum(map(len, one)) + len(one) + 1 for one in inputs]
        else:
            columns = [list(column) for column in zip(*inputs, strict=True)]
            lengths = list(map(len, tokenizer(*columns)["input_ids"]))
        found = iter(lengths)
        n_long += sum(max([next(found) for _ in sample]) > limit for sample in some)
    if not n_long:
        return ""
    return f"{name} reads {n_long:,} of {len(samples):,} samples only up to its {limit:,} tokens: they are longer"


def order_by_name(labels: Sequence[str], class_names: Sequence[str]) -> tuple[int, ...] | None:
    """The class of each label where all of them name classes, each another; None where they do not."""
    places = {_plain(name): place for place, name in enumerate(class_names)}
    found = [places.get(_plain(label)) for label in labels]
    if None in found or len(set(found)) != len(class_names):
        return None
    return tuple(place for place in found if place is not None)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()
