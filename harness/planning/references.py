"""References of a run, checked against its task: classifiers that stand beside the prompts.

Knows labels, fields and rows of the pool; refuses to know weights, and how anything is trained or computed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.config.schema import ReferenceEntry, RunConfig
from harness.core.errors import ConfigError, did_you_mean
from harness.core.sampling import nested_order
from harness.core.task import Sample, Task, TaskData
from harness.engine.classifying import ClassifierDescription
from harness.engine.registry import find_classifier
from harness.prompts.demonstrations import Pool, PoolDraw
from harness.prompts.draws import draw_of

CHECKED_ROWS = 256
"""Labelled rows of the pool on which the order of a classifier's classes is checked."""


@dataclass(frozen=True)
class ReferenceSetup:
    """One classifier, and how it meets the task."""

    info: ClassifierDescription
    fields: tuple[str, ...]
    """Of a sample, that it reads."""
    order: tuple[int, ...] | None
    """The task's class of each of its labels, by their names; None where the names do not tell."""
    rows: PoolDraw
    """Labelled rows on which that is checked."""
    note: str
    """What names tell, for the log."""

    @property
    def name(self) -> str:
        """What records call it."""
        return self.info.name

    @property
    def identity(self) -> dict[str, Any]:
        """What all its records depend on, in plain data."""
        return {
            "files": self.info.told_identity,
            "engine": self.info.model.engine,
            "dtype": self.info.model.dtype,
            "fields": list(self.fields),
            "max_length": self.info.model.max_length,
        }


def set_up_references(config: RunConfig, task: Task, data: TaskData) -> tuple[ReferenceSetup, ...]:
    """The references of a configuration, in its order.

    Raises:
        ConfigError: the task has no classes, a classifier has another number of them, or no such field.
        ModelError: a checkpoint that is no classifier.
    """
    if config.references:
        check_task_has_classes("references", task)
    return tuple(
        _set_up(config, task, data, entry, f"references[{place}]") for place, entry in enumerate(config.references)
    )


def check_task_has_classes(key: str, task: Task) -> None:
    """Refuse a task whose samples have no classes in common.

    Args:
        key: of the configuration that asks for classifiers.
        task: of the run.

    Raises:
        ConfigError: its answers are generated, or its samples bring choices of their own.
    """
    if not task.class_names or task.choices:
        what = "its samples bring choices of their own" if task.choices else "its answers are generated"
        raise ConfigError(
            f"{key} are classifiers, but task '{task.name}' has no classes: {what}; drop them, or take a task with "
            "classes"
        )


def _set_up(config: RunConfig, task: Task, data: TaskData, entry: ReferenceEntry, where: str) -> ReferenceSetup:
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
    return ReferenceSetup(
        info,
        names,
        order,
        PoolDraw(rows, draw_of(config.demos)),
        f"reference {entry.name}: its labels {', '.join(info.labels)} {what}",
    )


def fields_of(chosen: Sequence[str], data: TaskData, where: str) -> tuple[str, ...]:
    """The fields that a classifier reads: those chosen, the only one, or the one whose length counts.

    Raises:
        ConfigError: no such field, or several and none is chosen.
    """
    known = list(data.samples[0].fields)
    for name in chosen:
        if name not in known:
            raise ConfigError(f"{where}.fields names '{name}', which no sample has{did_you_mean(name, known)}")
    if not chosen and len(known) > 1:
        raise ConfigError(
            f"{where}.fields is empty, but samples have several fields ({', '.join(known)}); name the one that a "
            "classifier is to read, or a pair such as [premise, hypothesis]"
        )
    return tuple(chosen) or (data.length_field,)


def order_by_name(labels: Sequence[str], class_names: Sequence[str]) -> tuple[int, ...] | None:
    """The class of each label where all of them name classes, each another; None where they do not."""
    places = {_plain(name): place for place, name in enumerate(class_names)}
    found = [places.get(_plain(label)) for label in labels]
    if None in found or len(set(found)) != len(class_names):
        return None
    return tuple(place for place in found if place is not None)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()
