"""Tasks: what is asked of the model, and how answers are judged.

Knows the shape of a task and how to find one by its registered name or `module:attribute`;
refuses to know which tasks exist. A task is registered by the entry-point group
`harness.tasks`; `docs/adding_a_task.md` shows a complete one in one file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.entry_points import Kind
from harness.core.errors import ConfigError

if TYPE_CHECKING:
    from harness.config.schema import TaskConfig

CONTENT_FREE = "content-free:"
"""How the ids of inputs begin that calibration needs; they are no samples of the test set."""
KEPT_FIELDS = ("sample_id", "gold", "answers", "cluster", "sample_choices")
"""Names of no field: a run directory keeps a sample's own facts under them, beside its fields."""
MOST_CHOICES = 26
NO_CLASS = -1
"""In place of a class index: there is none, or the model's text is no label."""


@dataclass(frozen=True)
class Sample:
    """One test item, or one solved example that may serve as a demonstration."""

    id: str
    """Stable over runs: the random streams of a sample derive from it."""
    fields: Mapping[str, str]
    """The texts that templates name in braces."""
    gold: int = NO_CLASS
    """Index of the right class; `NO_CLASS` for tasks whose answers are generated."""
    answers: tuple[str, ...] = ()
    """Right answers of a generation task; the first is shown in demonstrations."""
    source: str = ""
    """Where the sample comes from, such as an article: a sample never gets a demonstration of its
    own source, nor of its own text."""
    cluster: str = ""
    """Samples of one cluster, such as questions on one paragraph, are not independent: intervals
    take it into account, and `task.limit` takes clusters whole. Empty: independent."""
    choices: tuple[str, ...] = ()
    """Of a task whose samples bring their own: the texts to choose from, of which `gold` is one."""

    def row(self) -> tuple[str, ...]:
        """All of it as texts, for content hashes."""
        named = (cell for name in sorted(self.fields) for cell in (name, self.fields[name]))
        extra = ("answers", *self.answers, "source", self.source) if self.answers or self.source else ()
        choices = ("choices", *self.choices) if self.choices else ()
        return (self.id, str(self.gold), *named, *extra, *choices)


@dataclass(frozen=True)
class TaskData:
    """What a task's loader returns."""

    samples: Sequence[Sample]
    """All test items in the order of the files; the harness applies `task.limit`."""
    pool: Sequence[Sample]
    """Solved examples in file order, from which demonstrations are drawn."""
    length_field: str
    """The field whose token length is analysed and limited by `demos.max_tokens`."""
    raw_pool_texts: Sequence[str] | None = None
    """The pool's length-field texts before cleaning, when cleaning changed them."""
    notes: Sequence[str] = ()
    """What the loader dropped or changed, for the log."""
    finish: Callable[[TaskData], TaskData] | None = None
    """Completes the samples that were chosen, with the same ids in the same order, where making all of them would
    take too long; it is given this with the chosen ones alone."""


@dataclass(frozen=True)
class LabelScores:
    """What the engine says of one prompt; label order is the template's."""

    logprobs: tuple[float, ...]
    """Sum of the label's token log-probabilities, nats."""
    token_counts: tuple[int, ...]
    argmax_token: int
    """Most likely token id at the first label position, over the whole vocabulary."""
    off_label_mass: float
    """Probability at the first label position that no label's first token holds."""


AnswerMetric = Callable[[str, Sample], float]
"""Judges one generated answer: a number, 0 to 1 where it is a share of right."""


@dataclass(frozen=True)
class RemoteFile:
    """One official file of a data set; a zip archive is unpacked beside itself."""

    name: str
    url: str
    blob: str
    """Git blob id: sha1 of `blob <size>\\0` and the bytes."""


@dataclass(frozen=True)
class ExportFormat:
    """How the generated answers of one cell are written for somebody else's scoring script."""

    suffix: str
    """Of the file's name, such as `.json`."""
    text: Callable[[Mapping[str, str]], str]
    """The file's text from sample id to answer, in the order of the records."""


@dataclass(frozen=True)
class StartWishes:
    """What the user of `harness init` says; an empty column is to be found."""

    label: str = ""
    answer: str = ""
    encoding: str = "utf-8"
    chat: bool = False
    """Also a template for models with a chat template."""
    choices: tuple[str, ...] = ()
    """Columns of choices, or one with lists of them."""
    folder: Path = Path()
    """Where the files will lie."""


@dataclass(frozen=True)
class Starter:
    """What `harness init` makes of somebody's data."""

    name: str
    """Of the run, and what the files' names begin with."""
    grid: str
    """YAML of the run configuration."""
    templates: str
    """YAML of the templates; the configuration names its file `{name}_templates.yaml`."""
    understood: Sequence[str]
    """What was seen in the data, a line each."""


def answers_as_json(answers: Mapping[str, str]) -> str:
    """One JSON object from sample id to answer, a line each."""
    return json.dumps(answers, ensure_ascii=False, indent=0) + "\n"


JSON_EXPORT = {"json": ExportFormat(".json", answers_as_json)}


@dataclass(frozen=True)
class Task:
    """A classification task (`class_names`), or one whose answers are generated (`answer_metrics`).

    Functions rather than methods, so that a task is one value in one file.
    """

    name: str
    version: str
    """Raise it when loading or scoring changes: stored results of another version are not reused."""
    description: str
    templates: Path | None
    """YAML file of the task's templates; None where only `task.templates_file` brings some."""
    expected_files: tuple[str, ...]
    """What `task.data_dir` must hold, for `harness tasks`."""
    load: Callable[[TaskConfig], TaskData]
    class_names: tuple[str, ...] = ()
    choices: bool = False
    """Whether each sample brings choices of its own; `class_names` then are the names of the first, second, ...
    choice, as many as a sample may have, and templates say how choices are shown, answered and scored."""
    score: Callable[[LabelScores], int] = field(default_factory=lambda: most_likely_label)
    """Class index predicted from the label scores."""
    metrics: Mapping[str, Callable[[Sequence[int], Sequence[int]], float]] = field(default_factory=dict)
    """Further figures per cell: name to function of (gold, predicted) class indices."""
    answer_metrics: Mapping[str, AnswerMetric] = field(default_factory=dict)
    """Figures per generated answer; the first is the one that strategies are compared by."""
    shorten: Callable[[Sample, int], Sample] | None = None
    """Cuts a demonstration's context to so many characters around its answer (`demos.context_chars`)."""
    options: type | None = None
    """Frozen dataclass of the task's own options, `task.options`; see `harness.core.task_options.read_options`."""
    of: Callable[[TaskConfig], tuple[Task, object]] | None = None
    """For a task whose classes or metrics depend on its options: the task as they make it, and the options
    completed, such that the same call with these reads no data."""
    parts: Callable[[TaskConfig], Mapping[str, TaskConfig]] | None = None
    """For groups: the parts of the task by their names, such as subjects, each with the configuration that takes it
    alone; empty where the options name none."""
    start: Callable[[Path, StartWishes], Starter] | None = None
    """For `harness init`: from a file or folder to a grid and templates."""
    downloads: Sequence[RemoteFile] = ()
    """The official files, for `harness data get`; empty where everybody brings their own."""
    exports: Mapping[str, ExportFormat] = field(default_factory=lambda: JSON_EXPORT)
    """Formats of `harness export` by name; the first is the default."""

    def __post_init__(self) -> None:
        if self.of is None and bool(self.class_names) == bool(self.answer_metrics):
            raise ConfigError(f"task '{self.name}' needs either class_names or answer_metrics, and not both")
        if self.choices and self.of is None and not 2 <= len(self.class_names) <= MOST_CHOICES:
            raise ConfigError(
                f"task '{self.name}' has choices and {len(self.class_names)} class_names, expected a name for each "
                f"place of a choice: 2 to {MOST_CHOICES}"
            )

    @property
    def generates(self) -> bool:
        """Whether answers are generated text rather than classes."""
        return bool(self.answer_metrics)


def most_likely_label(scores: LabelScores) -> int:
    """The label with the highest log-probability sum; the first of equals."""
    return max(range(len(scores.logprobs)), key=lambda i: (scores.logprobs[i], -i))


KIND = Kind("task", "harness.tasks", "my_task:TASK", "a harness Task", lambda found: isinstance(found, Task))


def registered_tasks() -> dict[str, str]:
    """Name to `module:attribute` of every registered task."""
    return KIND.registered()


def registered_task(name: str) -> Task | None:
    """The task of a registered name; None where reading a run must not import what it names."""
    return find_task(name) if name in registered_tasks() else None


def find_task(name: str) -> Task:
    """The task of a registered name, or at `module:attribute`.

    Raises:
        ConfigError: no such task, the module cannot be imported, or it holds no `Task`.
    """
    task: Task = KIND.find(name)
    return task
