"""What driver and workers say to each other; importable without torch, so the driver stays light."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.config.schema import ModelEntry, RunConfig
from harness.engine.protocol import Resources
from harness.prompts.templates import Template
from harness.results.schema import UnitStatistics

LectureTable = Mapping[tuple[str, int], Sequence[int]]
"""The lecture policy's draws of one seed: (sample id, K) to pool indices."""


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


@dataclass(frozen=True)
class Care:
    """How to take a unit whose replicas died: sample by sample, each noted before it is tried."""

    quarantined: tuple[str, ...] = ()
    """Ids of samples that are recorded as failed instead."""


NOTE_PREFIX = "trying-"


def note_name(unit_id: str) -> str:
    """The file of the run directory in which a unit taken with care notes the sample it tries."""
    return f"{NOTE_PREFIX}{unit_id}.json"


@dataclass(frozen=True)
class UnitReport:
    """What a worker says of a finished unit; the records themselves are in its part."""

    unit: str
    statistics: UnitStatistics
    errors: tuple[str, ...] = ()
    """The first few failures."""
