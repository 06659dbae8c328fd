"""Rows of a table to samples, as the options of the `table` task say. Refuses to know files."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from harness.core.errors import ConfigError, DataError, did_you_mean
from harness.core.escaping import one_line
from harness.core.hangul import compose_hangul
from harness.core.patterns import found_in
from harness.core.spelling import first_alike, spelt_alike
from harness.core.task import MOST_CHOICES, NO_CLASS, Sample
from tasks.table_cells import Cell, Cells, Table, field_name, fields_fault
from tasks.table_choices import Reading, RowChoices, answer_in, choices_of, described

MOST_CLASSES = 200


@dataclass(frozen=True)
class TableOptions:
    """Of `task.options`; columns by their names in the file."""

    test: str = ""
    """File or folder below `task.data_dir`; empty: `data_dir` itself, or its file named test, dev or validation."""
    pool: str = ""
    """File or folder of solved examples; empty: the file named train, else a share of the test rows."""
    pool_share: Annotated[float, Gt(0), Le(0.9)] | None = None
    """Share of the rows that are put aside for demonstrations, drawn by `task.sample_seed`."""
    id: str = ""
    """Column; empty: the number of the row."""
    label: str = ""
    """Column with the class; for a task of classes."""
    answer: str = ""
    """Column with the right answer, or with a list of them; for a task whose answers are written. With `choices`
    the column that says which of them is right."""
    choices: list[str] | str = ""
    """Columns with a choice each, or one column with lists of them."""
    answer_is: Reading | Literal[""] = ""
    """What `answer` holds of a choice: its text, its letter, or its number counted from 0 or 1; empty: what fits."""
    most_choices: Annotated[int, Ge(2), Le(MOST_CHOICES)] | None = None
    """Choices that a row may have; None: as many as one has."""
    replace: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    """Column to other texts for some of its texts, such as words that a prompt has for a code."""
    classes: dict[str, str] | list[str] | None = None
    """Labels in the order of the templates' `labels`; a mapping gives each a name for tables. None: all there are."""
    fields: list[str] | None = None
    """Columns that templates may name; None: all that are neither id, label, answer, source nor cluster."""
    source: str = ""
    """Column: a sample gets no demonstration of its own source."""
    cluster: str = ""
    """Column: samples of one cluster are not independent."""
    encoding: str = "utf-8"
    filter: dict[str, str | list[str]] = dataclasses.field(default_factory=dict)
    """Column to the text, or the texts, that a row must have there."""
    parts: str = ""
    """Column with the parts of the task, such as subjects, of which a group may run each by itself."""
    parts_in_name: str = ""
    """Regular expression: what of a file's name is the part of its rows, in the place of a column."""
    part: str = ""
    """The only part to take."""

    @property
    def choice_columns(self) -> list[str]:
        """The columns of the choices; none where samples bring none."""
        return [self.choices] if isinstance(self.choices, str) and self.choices else list(self.choices)


class Rows:
    """Rows of tables to samples, as the options say."""

    def __init__(self, options: TableOptions) -> None:
        self.options = options
        self.classes = [compose_hangul(name) for name in options.classes] if isinstance(options.classes, dict) else []

    def samples(self, table: Table, name: str, notes: list[str]) -> list[Sample]:
        """The samples of a table; what is left out or changed is counted in the notes."""
        options = self.options
        for key in ("id", "label", "answer", "source", "cluster", "parts"):
            if column := getattr(options, key):
                check_column(f"task.options.{key}", column, table)
        named = {"filter": options.filter, "fields": options.fields, "choices": options.choice_columns}
        for key, columns in (named | {"replace": options.replace}).items():
            for column in columns or ():
                check_column(f"task.options.{key}", column, table)
        fields = self._fields(table, name, notes)
        if fault := fields_fault(fields):
            raise DataError(f"'{name}': {fault}, or name those that templates need in task.options.fields")
        dropped: Counter[str] = Counter()
        blank: Counter[str] = Counter()
        composed = lost = 0
        seen: dict[str, str] = {}
        found = []
        parts = parts_of(options, table)
        for number, (row, place) in enumerate(zip(table.rows, table.places, strict=True), 1):
            reason = self._left_out(row, fields)
            if options.part and parts[number - 1] != options.part:
                reason = f"of other parts than '{one_line(options.part, 60)}'"
            if reason:
                dropped[reason] += 1
                continue
            raw = {field_name(column): self._field(row, column, place) for column in fields}
            texts = {key: compose_hangul(text) for key, text in raw.items()}
            gold = cell_text(row[options.label or options.answer])
            composed += texts != raw or compose_hangul(gold) != gold
            sample = self._sample(row, place, number, texts)
            if sample.id in seen:
                raise DataError(
                    f"{place}: the id '{one_line(sample.id, 60)}' comes twice (first in {seen[sample.id]}), expected "
                    "unique ids; without task.options.id the rows are numbered"
                )
            seen[sample.id] = place
            found.append(sample)
            lost += any("\ufffd" in text for text in (*texts.values(), *sample.answers, *sample.choices))
            blank.update(column for column in fields if not cell_text(row[column]).strip())
        notes += [*table.notes, f"{name}: {len(found):,} of {len(table.rows):,} rows"]
        notes += [f"{name}: {count:,} left out {reason}" for reason, count in sorted(dropped.items())]
        notes += [f"{name}: {count:,} rows are asked with nothing in '{column}'" for column, count in blank.items()]
        if lost:
            notes.append(f"{name}: {lost:,} rows hold U+FFFD, which stands for characters that were lost before")
        if composed:
            notes.append(f"{name}: the decomposed Hangul of {composed:,} rows is composed (NFC)")
        return found

    def _fields(self, table: Table, name: str, notes: list[str]) -> list[str]:
        options = self.options
        if options.fields is not None:
            return options.fields
        special = {options.id, options.label, options.answer, options.source, options.cluster, options.parts}
        special |= set(options.choice_columns)
        found, gaps = [], {}
        for column in table.columns:
            if column not in special and column not in options.filter:
                missing = sum(row[column] is None for row in table.rows)
                if missing:
                    gaps[column] = missing
                else:
                    found.append(column)
        notes += [
            f"{name}: {missing:,} of {len(table.rows):,} rows have no '{column}', so that templates cannot name it"
            for column, missing in gaps.items()
        ]
        if not found:
            raise DataError(f"'{name}' has no column of texts beside label and answer; expected at least one")
        return found

    def _left_out(self, row: Mapping[str, Cell], fields: Sequence[str]) -> str:
        for column, wanted in self.options.filter.items():
            if cell_text(row[column]) not in ([wanted] if isinstance(wanted, str) else wanted):
                return f"with another '{column}' than task.options.filter names"
        gold = row[self.options.label or self.options.answer]
        if not cell_text(gold).strip():
            return "without a label" if self.options.label else "without an answer"
        if not any(cell_text(row[column]).strip() for column in fields):
            return "without text"
        return ""

    def _sample(self, row: Mapping[str, Cell], place: str, number: int, texts: Mapping[str, str]) -> Sample:
        options = self.options
        missing = [column for column in options.fields or [] if row[column] is None]
        if missing:
            raise DataError(f"{place} has no '{missing[0]}', which task.options.fields names; expected a text")
        gold = NO_CLASS
        answers: tuple[str, ...] = ()
        if options.label:
            label = compose_hangul(cell_text(row[options.label]))
            if label not in self.classes:
                raise DataError(
                    f"{place}: the label is '{one_line(label, 60)}'{did_you_mean(label, self.classes)}, expected one "
                    f"of {one_line(str(self.classes), 160)} (task.options.classes)"
                )
            gold = self.classes.index(label)
        else:
            cell = row[options.answer]
            texts_of = cell.texts if isinstance(cell, Cells) else (cell_text(cell),)
            answers = tuple(compose_hangul(text) for text in texts_of if text.strip())
        choices = choices_of(row, options.choice_columns)
        if options.choice_columns:
            gold, answers = self._chosen(row, choices, place), ()
        return Sample(
            id=cell_text(row[options.id]) if options.id else str(number),
            fields=texts,
            gold=gold,
            answers=answers,
            choices=choices.texts,
            source=cell_text(row[options.source]) if options.source else "",
            cluster=cell_text(row[options.cluster]) if options.cluster else "",
        )

    def _field(self, row: Mapping[str, Cell], column: str, place: str) -> str:
        text = cell_text(row[column])
        others = self.options.replace.get(column)
        if others is None:
            return text
        if text not in others:
            raise DataError(
                f"{place}: '{one_line(column, 60)}' is '{one_line(text, 60)}'{did_you_mean(text, others)}, for which "
                "task.options.replace has no text"
            )
        return others[text]

    def _chosen(self, row: Mapping[str, Cell], choices: RowChoices, place: str) -> int:
        options = self.options
        name = f" (id '{one_line(cell_text(row[options.id]), 60)}')" if options.id else ""
        shown = one_line(str(list(choices.texts)), 160)
        if len(choices.texts) < 2:
            raise DataError(f"{place}{name}: {len(choices.texts)} choices, expected at least two: {shown}")
        answer = cell_text(row[options.answer])
        found = answer_in(choices, answer, options.answer_is)
        if found is None:
            raise DataError(
                f"{place}{name}: the answer '{one_line(answer, 60)}' is not among its choices {shown}; expected "
                f"{described(options.answer_is)} (task.options.answer_is)"
            )
        return found


def check_column(key: str, column: str, table: Table) -> None:
    """Refuse a column that a table lacks.

    Raises:
        DataError: with the nearest name.
    """
    if column not in table.columns:
        hint = did_you_mean(column, table.columns)
        raise DataError(
            f"{key} is '{one_line(column, 60)}', but the table has no such column{hint}; it has: "
            f"{one_line(', '.join(table.columns), 160)}"
        )


def parts_of(options: TableOptions, table: Table) -> list[str]:
    """The part of each row; an empty text where the options name none.

    Raises:
        DataError: a file whose name has no part, or a part that no row has.
        ConfigError: parts named in two ways, a part without them, or what is no regular expression.
    """
    if options.parts and options.parts_in_name:
        raise ConfigError("task.options.parts and task.options.parts_in_name are both given, expected one of them")
    found = [""] * len(table.rows)
    if options.parts:
        check_column("task.options.parts", options.parts, table)
        found = [cell_text(row[options.parts]) for row in table.rows]
    elif options.parts_in_name:
        names = {file: _part_in(file, options.parts_in_name) for file in dict.fromkeys(table.files)}
        found = [names[file] for file in table.files]
    elif options.part:
        raise ConfigError(
            f"task.options.part is '{one_line(options.part, 60)}', but neither task.options.parts nor "
            "task.options.parts_in_name says where parts stand"
        )
    if options.part and options.part not in found:
        hint = did_you_mean(options.part, set(found))
        raise DataError(f"task.options.part is '{one_line(options.part, 60)}', which no row is of{one_line(hint, 200)}")
    return found


def _part_in(file: str, pattern: str) -> str:
    found = found_in([file], pattern, "task.options.parts_in_name")[0]
    if not found or not found[0]:
        raise DataError(
            f"the name of the file '{one_line(file, 80)}' has no part that task.options.parts_in_name="
            f"{one_line(repr(pattern), 80)} matches"
        )
    return found[0]


def classes_of(table: Table, column: str) -> list[str]:
    """The texts of a label column, in the order of numbers where all are numbers.

    Raises:
        DataError: too few or too many to be classes, or two that are one class in two spellings.
    """
    counts = Counter(compose_hangul(cell_text(row[column])) for row in table.rows)
    counts.pop("", None)
    for odd in [text for text in counts if not text.strip()]:
        del counts[odd]
    if len(counts) < 2:
        raise DataError(
            f"the column '{column}' holds {len(counts)} class ({one_line(str(list(counts)), 80)}), expected at least "
            "two; is it another column?"
        )
    if len(counts) > MOST_CLASSES or (len(counts) > 20 and len(counts) > sum(counts.values()) / 2):
        raise DataError(
            f"the column '{column}' holds {len(counts):,} different labels in {sum(counts.values()):,} rows; is it an "
            f"id or a text? Expected at most {MOST_CLASSES} classes: name another column, or list them in "
            "task.options.classes"
        )
    if alike := first_alike(sorted(counts), spelt_alike):
        listed = " and ".join(f"{one_line(repr(name), 40)} in {counts[name]:,}" for name in alike)
        raise DataError(
            f"the column '{column}' holds two spellings of what may be one class: {listed} rows; expected one spelling "
            "for each class: mend the file, or list the classes in task.options.classes if they are two"
        )
    try:
        return sorted(counts, key=float)
    except ValueError:
        return sorted(counts)


def cell_text(cell: Cell) -> str:
    """One text for a cell: nothing for one that is missing, lines for several texts."""
    if isinstance(cell, Cells):
        return "\n".join(cell.texts)
    return cell or ""
