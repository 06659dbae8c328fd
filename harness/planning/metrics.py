"""Metrics by name (`scoring.metrics`) against the task: whether it has values for them, and whether they mean anything.

Knows names, classes and right answers; refuses to know records.
"""

from __future__ import annotations

from importlib.util import find_spec

from harness.config.schema import RunConfig
from harness.config.values import ANSWER_METRICS, CHOICE_METRICS, CLASS_METRICS
from harness.core.errors import ConfigError
from harness.core.escaping import one_line
from harness.core.numerals import number_of, numbers_in
from harness.core.task import Task, TaskData

BY_ORDER = ("mae", "spearman")
"""Metrics that go by the order of the classes."""


def check_metrics(config: RunConfig, task: Task) -> None:
    """Refuse metrics by name that the task's records have no values for.

    Raises:
        ConfigError: naming the first of them, and those that there are.
    """
    kinds = [
        (task.generates, ANSWER_METRICS, "has written answers"),
        (task.choices, CHOICE_METRICS, "has choices of each sample"),
        (True, CLASS_METRICS, "has classes"),
    ]
    known, what = next((names, what) for fits, names, what in kinds if fits)
    for name in config.scoring.metrics:
        if name not in known:
            raise ConfigError(
                f"scoring.metrics names {name}, but task '{task.name}' {what}; expected of {', '.join(known)}"
            )
        if name in (*task.metrics, *task.answer_metrics):
            raise ConfigError(f"scoring.metrics names {name}, which task '{task.name}' has already; drop it")
        if name == "chrf" and find_spec("sacrebleu") is None:
            raise ConfigError(
                "scoring.metrics names chrf, which needs sacrebleu; install it with pip install "
                "'prompt-grid-harness[metrics]', or drop it"
            )
        if name == "auroc" and len(task.class_names) != 2:
            raise ConfigError(
                f"scoring.metrics names auroc, but task '{task.name}' has {len(task.class_names)} classes, expected two"
            )
    if config.scoring.extract is not None and not (task.generates and config.scoring.metrics):
        raise ConfigError("scoring.extract is for scoring.metrics of written answers, of which there are none; drop it")


def check_order(config: RunConfig, task: Task, is_told: bool) -> None:
    """Refuse metrics that go by the order of the classes where these were found in the data and stand by the alphabet.

    Args:
        config: the run's.
        task: as its options make it.
        is_told: whether the options name the classes.

    Raises:
        ConfigError: with the classes as they stand.
    """
    names = [name for name in config.scoring.metrics if name in BY_ORDER]
    if not names or is_told or task.options is None or len(task.class_names) < 3:
        return
    if any(number_of(name) is None for name in task.class_names):
        raise ConfigError(
            f"scoring.metrics names {names[0]}, which goes by the order of the classes, but task '{task.name}' has "
            f"them by the alphabet: {one_line(', '.join(task.class_names), 160)}; list them in their order in "
            "task.options.classes"
        )


def notes_on_numbers(config: RunConfig, data: TaskData) -> tuple[str, ...]:
    """Right answers that `same_number` cannot compare whole: one note, or none."""
    if "same_number" not in config.scoring.metrics:
        return ()
    counts = [max(len(numbers_in(answer)) for answer in sample.answers) for sample in data.samples]
    none, several = counts.count(0), sum(n > 1 for n in counts)
    if not none and not several:
        return ()
    return (
        f"same_number: of {len(counts):,} samples {none:,} have no number in their right answer and are never right, "
        f"{several:,} have several, of which the last counts",
    )
