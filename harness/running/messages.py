"""What driver and workers say to each other; importable without torch, so the driver stays light."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.config.schema import ModelEntry, RunConfig
from harness.core.errors import RunDirError
from harness.engine.protocol import Resources
from harness.planning.references import Purpose
from harness.prompts.draws import LectureTable as LectureTable
from harness.prompts.templates import Template
from harness.results import layout
from harness.results.quarantine import Ending, Verdict
from harness.results.schema import UnitStatistics
from harness.results.store import RunStore


@dataclass(frozen=True)
class ReferenceSpec:
    """How a reference meets the task."""

    purpose: Purpose
    fields: tuple[str, ...]
    """Of a sample, that it reads."""
    labels: tuple[str, ...]
    """Of a classifier, in its own order."""
    order: tuple[int, ...] | None
    """The task's class of each label, by name; None where the names do not tell."""


@dataclass(frozen=True)
class LearningSpec:
    """How classifiers are trained."""

    fields: tuple[str, ...]
    """Of a sample, that they read."""
    learning_rate: float
    keep: bool
    """Whether the last checkpoints stay."""


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs to know of the run."""

    config: RunConfig
    model: ModelEntry
    method: str
    """`likelihood` or `generate`."""
    templates: Mapping[str, Template]
    context_length: int | None
    """Most tokens of a prompt with its label or answer; None for no limit."""
    longest_prompt: int
    """Tokens of the grid's longest prompt."""
    resources: Resources = field(default_factory=Resources)
    """What each replica takes."""
    threads: int | None = None
    """CPU threads of the worker; None leaves the engine's choice."""
    chat_time: str | None = None
    """What chat templates take for the present."""
    spent: float = 0.0
    """What the run has paid for requests to this model."""
    tokens: int | None = None
    """Of the grid, every shared one counted once per shard; None where that is not known."""
    reference: ReferenceSpec | None = None
    """Where the model needs no prompt."""
    learning: LearningSpec | None = None
    """Where it learns first, anew for every unit."""


@dataclass(frozen=True)
class Handling:
    """How to take a unit of which something is known."""

    out: tuple[Verdict, ...] = ()
    """Samples that are recorded as failed instead."""
    alone: bool = False
    """Sample by sample, each noted before it is tried: if the process ends, that sample did it."""
    first: tuple[str, ...] = ()
    """Ids of samples to be tried before the others."""
    last: frozenset[str] = frozenset()
    """Ids of samples that came through by themselves before: they are taken together, after the others."""
    again: frozenset[str] | None = None
    """Ids of samples whose failures are to be tried again, of a unit that is committed; None takes all samples."""


@dataclass(frozen=True)
class Note:
    """What a process tries, written into the run directory before it does."""

    sample: str | None
    """Its id; None where samples are taken together."""
    process: str
    """Host and process id."""
    ending: Ending = Ending.DIED
    """How the process came to its end, if it did."""


def process_name() -> str:
    """Host and id of this process."""
    return f"{platform.node()}/{os.getpid()}"


NOTE_PREFIX = "trying-"


def is_note(name: str) -> bool:
    """Whether a file of a run directory is a note of this program, rather than of somebody who keeps one there."""
    return re.fullmatch(rf"{NOTE_PREFIX}[0-9a-f]{{32}}\.json", name) is not None


def note_name(unit_id: str) -> str:
    """The file of the run directory in which a process notes what it tries of a unit."""
    return f"{NOTE_PREFIX}{unit_id}.json"


def write_note(store: RunStore, unit_id: str, sample: str | None, process: str, ending: Ending | None = None) -> None:
    """Note what a process tries of a unit; the note outlives the process."""
    known = {} if ending is None else {"ending": ending}
    store.write_json(note_name(unit_id), {"sample": sample, "process": process, **known}, durable=False)


def read_note(store: RunStore, unit_id: str) -> Note | None:
    """What was noted of a unit last; None where nothing was, or nothing that can be read."""
    name = note_name(unit_id)
    try:
        found = store.read_json(name) if store.exists(name) else None
    except RunDirError:
        return None
    if found is None or layout.NOTE(found, "it"):
        return None
    return Note(found["sample"], found["process"], Ending(found.get("ending", Ending.DIED)))


@dataclass(frozen=True)
class UnitReport:
    """What a worker says of a finished unit; the records themselves are in its part."""

    unit: str
    statistics: UnitStatistics
    errors: tuple[str, ...] = ()
    """The first few failures."""
