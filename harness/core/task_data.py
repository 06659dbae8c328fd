"""What a task's loader returned, checked before anything relies on it: any task, the user's own included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

from harness.core.errors import ConfigError, DataError
from harness.core.escaping import one_line
from harness.core.foreign import blamed_on
from harness.core.sampling import choose
from harness.core.task import CONTENT_FREE, KEPT_FIELDS, Sample, Task, TaskData

if TYPE_CHECKING:
    from harness.config.schema import TaskConfig


CHOICES = "choices"
"""What templates call the choices of a sample."""
MOST_CHARACTERS = 4_000_000
"""Of one text: far more than any context holds. To tokenise 200 MB takes tens of gigabytes."""


def load_data(task: Task, options: TaskConfig) -> TaskData:
    """Load a task's data, check what the loader made of it, and take the samples that `task.limit` asks for.

    The loader is not told of the limit: which samples a run has is the same question for every task.

    Raises:
        DataError: the loader failed, there are no samples, or a sample is not what the task promises; names
            the sample and what was expected.
    """
    check_task(task)
    with blamed_on(
        f"task '{task.name}': loading its data from '{options.data_dir}'", "mend the data or the task", DataError
    ):
        data = task.load(replace(options, limit=None))
    _check(task, data, options)
    samples, note = choose(data.samples, options)
    data = replace(data, samples=samples, notes=[*data.notes, note] if note else data.notes)
    if data.finish is None:
        return data
    with blamed_on(f"task '{task.name}': completing its samples", "mend the data or the task", DataError):
        finished = data.finish(data)
    _check(task, finished, options)
    if [s.id for s in finished.samples] != [s.id for s in samples]:
        raise DataError(f"task '{task.name}': completing its samples gave others; expected the same ids in their order")
    return replace(finished, finish=None)


def _check(task: Task, data: Any, options: TaskConfig) -> None:
    where = f"task '{task.name}'"
    if not isinstance(data, TaskData):
        raise DataError(f"{where}: its loader gave a {type(data).__name__}, expected a harness.core.task.TaskData")
    for name in ("samples", "pool"):
        if not isinstance(getattr(data, name), Sequence):
            raise DataError(
                f"{where}: its {name} are a {type(getattr(data, name)).__name__}, expected a list of Sample"
            )
    if not data.samples:
        raise DataError(f"{where} has no samples in '{options.data_dir}'; expected at least one")
    fields = _fields_of(data.samples[0])
    if task.choices and CHOICES in fields:
        raise DataError(
            f"{where}: its samples have a field '{CHOICES}', which in templates stands for the choices themselves; "
            "give it another name"
        )
    _check_samples(f"{where}: sample", task, data.samples, fields)
    _check_samples(f"{where}: demonstration", task, data.pool, fields)
    if kept := [name for name in fields if name in KEPT_FIELDS]:
        raise DataError(
            f"{where}: its samples have a field '{kept[0]}', a name that run directories keep for a sample's own "
            "facts; give it another"
        )
    if data.length_field not in fields:
        raise DataError(
            f"{where}: length_field is {data.length_field!r}, but its samples have: {', '.join(fields)}; "
            "use one of them"
        )
    if data.raw_pool_texts is not None and len(data.raw_pool_texts) != len(data.pool):
        raise DataError(
            f"{where}: {len(data.raw_pool_texts):,} raw_pool_texts for {len(data.pool):,} demonstrations; "
            "expected one each"
        )
    if any(not isinstance(text, str) or len(text) > MOST_CHARACTERS for text in data.raw_pool_texts or ()):
        raise DataError(
            f"{where}: its raw_pool_texts are not all texts of at most {MOST_CHARACTERS:,} characters; expected such, "
            "or None"
        )
    seen: set[str] = set()
    for sample in data.samples:
        if sample.id.startswith(CONTENT_FREE):
            raise DataError(
                f"the sample id '{one_line(sample.id, 40)}' begins with '{CONTENT_FREE}', which the harness keeps for "
                "itself; use another id"
            )
        if sample.id in seen:
            raise DataError(f"{where}: the sample id '{one_line(sample.id, 60)}' comes twice, expected unique ids")
        seen.add(sample.id)


def check_task(task: Task) -> None:
    """Refuse class and metric names that are no texts, or come twice.

    Raises:
        ConfigError: naming them.
    """
    for what, names in (
        ("class_names", task.class_names),
        ("metrics", list(task.metrics)),
        ("answer_metrics", list(task.answer_metrics)),
    ):
        if any(not isinstance(name, str) or not name for name in names) or len(set(names)) != len(names):
            raise ConfigError(f"task '{task.name}': {what} are {one_line(repr(names), 80)}, expected different texts")


def _fields_of(sample: Any) -> list[str]:
    fields = sample.fields if isinstance(sample, Sample) else None
    return [str(name) for name in fields] if isinstance(fields, Mapping) else []


def _check_samples(where: str, task: Task, samples: Iterable[Any], fields: Sequence[str]) -> None:
    names = set(fields)
    for place, sample in enumerate(samples):
        fault = _fault(task, sample, names)
        if fault:
            shown = repr(getattr(sample, "id", place))
            raise DataError(f"{where} {one_line(shown, 60)} (number {place + 1}): {fault}")


def _fault(task: Task, sample: Any, fields: set[str]) -> str:
    """What is wrong with a sample; an empty text where nothing is."""
    if not isinstance(sample, Sample):
        return f"it is a {type(sample).__name__}, expected a harness.core.task.Sample"
    if not isinstance(sample.fields, Mapping) or not fields or set(sample.fields) != fields:
        found = sorted(map(str, sample.fields)) if isinstance(sample.fields, Mapping) else sample.fields
        wanted = sorted(fields) or "at least one"
        return f"its fields are {one_line(repr(found), 80)}, expected {wanted} as in the first sample"
    own = (("id", sample.id), ("source", sample.source), ("cluster", sample.cluster))
    for name, text in (*own, *sample.fields.items()):
        if not isinstance(text, str):
            return f"its {name} is {one_line(repr(text), 60)}, expected text"
        if len(text) > MOST_CHARACTERS:
            return f"its {name} has {len(text):,} characters, expected at most {MOST_CHARACTERS:,}; leave it out"
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            return f"its {name} holds a lone surrogate, expected text that UTF-8 can hold"
    if not sample.id:
        return "it has no id, expected text"
    if task.class_names:
        if fault := _choices_fault(task, sample):
            return fault
        known = isinstance(sample.gold, Integral) and not isinstance(sample.gold, bool)
        if not known or not 0 <= sample.gold < len(task.class_names):
            return (
                f"its gold is {sample.gold!r}, expected 0 to {len(task.class_names) - 1}, the index in "
                f"{one_line(repr(list(task.class_names)), 80)} (are the labels counted from 1?)"
            )
        return ""
    if not isinstance(sample.answers, tuple | list) or not sample.answers:
        return f"its answers are {one_line(repr(sample.answers), 60)}, expected at least one right answer"
    if any(not isinstance(answer, str) or any("\ud800" <= c <= "\udfff" for c in answer) for answer in sample.answers):
        return f"its answers are {one_line(repr(sample.answers), 60)}, expected texts"
    return ""


def _choices_fault(task: Task, sample: Sample) -> str:
    """What is wrong with a sample's own choices; an empty text where nothing is."""
    choices, shown = sample.choices, one_line(repr(sample.choices), 80)
    if not task.choices:
        return (
            f"its choices are {shown}, but the task has the same classes for all samples; expected none"
            if choices
            else ""
        )
    if not isinstance(choices, tuple | list) or not 2 <= len(choices) <= len(task.class_names):
        return f"its choices are {shown}, expected 2 to {len(task.class_names)} texts"
    for text in choices:
        if not isinstance(text, str) or not text.strip() or len(text) > MOST_CHARACTERS:
            return f"its choices are {shown}, expected texts that are not empty"
        if any("\ud800" <= c <= "\udfff" for c in text):
            return f"its choices are {shown}, expected text that UTF-8 can hold"
    gold = sample.gold
    if not isinstance(gold, Integral) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        return f"its gold is {gold!r}, expected 0 to {len(choices) - 1}, the place among its choices {shown}"
    return ""
