"""Fields that show the model the answer: said before a run, for any task and template.

Knows samples and templates; refuses to know models.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.core.giveaways import is_answer, names_classes
from harness.core.task import Task, TaskData
from harness.prompts.templates import Template


def notes_on_giveaways(task: Task, data: TaskData, templates: Iterable[Template]) -> tuple[str, ...]:
    """One note for each field that tells the answer, with the templates that name it.

    Args:
        task: of the data.
        data: as it is asked.
        templates: of the grid.
    """
    named: dict[str, list[str]] = {}
    for template in templates:
        for field in sorted(template.field_names()):
            named.setdefault(field, []).append(template.name)
    found = {field: _what(task, data, field) for field in named}
    return tuple(
        f"the field '{field}' {what}: the templates that name it ({', '.join(named[field])}) show the answer"
        for field, what in found.items()
        if what
    )


def _what(task: Task, data: TaskData, field: str) -> str:
    """How a field tells the answer; an empty text where it does not."""
    texts = [sample.fields[field] for sample in data.samples]
    if task.class_names and not task.choices:
        golds = [str(sample.gold) for sample in data.samples]
        return f"has {len(set(texts))} texts, each with one class alone" if names_classes(texts, golds) else ""
    rights = [sample.choices[sample.gold] if task.choices else sample.answers[0] for sample in data.samples]
    return "is the right answer" if is_answer(texts, rights) else ""
