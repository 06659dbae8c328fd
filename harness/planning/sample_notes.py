"""What the samples themselves say of a figure to come: fields that show the model the answer, samples that are asked
twice, texts that no answer equals. Said before a run, for any task and template.

Knows samples and templates; refuses to know models.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.core.giveaways import is_answer, names_classes
from harness.core.hangul import compose_hangul
from harness.core.task import Task, TaskData
from harness.prompts.templates import Template

LOOKED_AT = 2_000
"""Characters of a text in which its normal form shows."""
MOST_REPEATS = 0.05
"""Share of the samples that may ask what another asks before it is said."""


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


def notes_on_repeats(task: Task, data: TaskData, templates: Iterable[Template]) -> tuple[str, ...]:
    """Samples that no template tells apart: one note where some have other right answers, or there are many.

    Args:
        task: of the data.
        data: as it is asked.
        templates: of the grid.
    """
    fields = sorted({field for template in templates for field in template.field_names()})
    seen: dict[tuple[str, ...], list[tuple[object, ...]]] = {}
    for sample in data.samples:
        right = (sample.gold,) if task.class_names else tuple(sorted(sample.answers))
        asked = (*(sample.fields[field] for field in fields), *sample.choices)
        seen.setdefault(asked, []).append(right)
    n, repeats = len(data.samples), len(data.samples) - len(seen)
    torn = sum(len(rights) for rights in seen.values() if len(set(rights)) > 1)
    if not torn and repeats <= MOST_REPEATS * n:
        return ()
    note = f"{repeats:,} of {n:,} samples ask what others ask too; intervals take samples as independent"
    if torn:
        note += f"; {torn:,} with the same texts have different right answers"
    return (note,)


def notes_on_spelling(data: TaskData) -> tuple[str, ...]:
    """Samples and demonstrations with Hangul as single letters (NFD), as some systems store it: one note, or none."""
    count = 0
    for sample in (*data.samples, *data.pool):
        texts = (*sample.fields.values(), *sample.answers, *sample.choices)
        count += any(compose_hangul(text[:LOOKED_AT]) != text[:LOOKED_AT] for text in texts)
    if not count:
        return ()
    return (
        f"{count:,} samples and demonstrations hold decomposed Hangul (NFD): it has other tokens, and no answer that a "
        "model writes equals it; let the task compose it (unicodedata.normalize('NFC', text))",
    )
