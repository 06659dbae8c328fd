"""A table of your own as a task: which column is the text, which the label or the answer. No code needed.

Texts stay what the file holds; what is left out is counted by its reason. The options are described in
`docs/adding_a_task.md`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Gt, Le

from harness.config.schema import TaskConfig
from harness.core.errors import ConfigError, DataError, did_you_mean
from harness.core.escaping import one_line
from harness.core.hangul import compose_hangul
from harness.core.task import NO_CLASS, Sample, Task, TaskData
from harness.core.task_options import read_options
from tasks.korquad import best_of_golds
from tasks.korquad_metrics import exact_match, f1_score
from tasks.table_cells import Cell, Cells, Table, field_name
from tasks.table_files import READERS, read_table

MOST_CLASSES = 200
SPLIT_SHARE = 0.2
"""Of the rows that may be demonstrations, where no file and no share is named."""
TEST_NAMES, POOL_NAMES = ("test", "dev", "validation", "valid"), ("train", "pool")
"""How files of a folder begin that hold what is asked, and what is shown."""


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
    """Column with the right answer, or with a list of them; for a task whose answers are written."""
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


ANSWER_METRICS = {"exact_match": best_of_golds(exact_match), "f1": best_of_golds(f1_score)}


def of(config: TaskConfig) -> tuple[Task, TableOptions]:
    """The task that the options make: with classes, or with answers.

    Raises:
        ConfigError: neither label nor answer, or both.
        DataError: the classes are not told and cannot be seen.
    """
    options = read_options(config, TableOptions)
    if bool(options.label) == bool(options.answer):
        both = "both name a column" if options.label else "name no column"
        raise ConfigError(
            f"task.options.label and task.options.answer {both}; expected one: label for classes, answer for written "
            "answers"
        )
    if options.answer:
        return dataclasses.replace(TASK, answer_metrics=ANSWER_METRICS, of=None), options
    if options.classes is None:
        options = dataclasses.replace(options, classes={name: name for name in _classes_seen(config, options)})
    elif isinstance(options.classes, list):
        if len(set(options.classes)) != len(options.classes):
            raise ConfigError(f"task.options.classes names a class twice: {options.classes}; expected each once")
        options = dataclasses.replace(options, classes={name: name for name in options.classes})
    assert isinstance(options.classes, dict)
    if len(options.classes) < 2:
        raise ConfigError(f"task.options.classes holds {len(options.classes)} class, expected at least two")
    return dataclasses.replace(TASK, class_names=tuple(options.classes.values()), of=None), options


def load(config: TaskConfig) -> TaskData:
    """Test samples and demonstrations."""
    options = read_options(config, TableOptions)
    test_path, pool_path = places(config, options)
    notes: list[str] = []
    rows = _Rows(options)
    asked = rows.samples(read_table(test_path, options.encoding), test_path.name, notes)
    if pool_path is not None:
        shown = rows.samples(read_table(pool_path, options.encoding), pool_path.name, notes)
        shown = _without_asked(shown, asked, notes)
    else:
        share = options.pool_share or SPLIT_SHARE
        asked, shown = _split(asked, share, config.sample_seed)
        notes.append(
            f"{len(shown):,} of {len(shown) + len(asked):,} rows are put aside for demonstrations (task.options."
            f"pool_share={share:g}, drawn by task.sample_seed); name a file of solved examples with task.options.pool"
        )
    if not asked:
        raise DataError(f"'{test_path}' leaves no row to ask about; {'; '.join(notes)}")
    longest = max(asked[0].fields, key=lambda name: sum(len(sample.fields[name]) for sample in asked))
    return TaskData(asked, shown, length_field=longest, notes=notes)


def places(config: TaskConfig, options: TableOptions) -> tuple[Path, Path | None]:
    """Where the rows lie that are asked about, and the solved examples; None where the first are to be split.

    Raises:
        DataError: `task.data_dir` is not there, or does not tell which file is which.
    """
    folder = Path(config.data_dir)
    if not folder.exists():
        raise DataError(f"no file or folder '{folder}'; expected a table: {', '.join(READERS)}")
    if options.pool and options.pool_share is not None:
        raise ConfigError("task.options.pool and task.options.pool_share are both given, expected one of them")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in READERS) if folder.is_dir() else []
    test = folder / options.test if options.test else _named(files, TEST_NAMES)
    if test is None:
        test = files[0] if len(files) == 1 else folder
    if options.pool:
        return test, folder / options.pool if folder.is_dir() else folder.parent / options.pool
    pool = None if options.pool_share is not None or test == folder else _named(files, POOL_NAMES)
    return test, pool if pool != test else None


def _named(files: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The file whose name begins with one of some names; None where none does, or several do."""
    for name in names:
        found = [file for file in files if file.stem.lower().startswith(name) or file.stem.lower().endswith(name)]
        if len(found) == 1:
            return found[0]
    return None


class _Rows:
    """Rows of tables to samples, as the options say."""

    def __init__(self, options: TableOptions) -> None:
        self.options = options
        self.classes = list(options.classes) if isinstance(options.classes, dict) else []

    def samples(self, table: Table, name: str, notes: list[str]) -> list[Sample]:
        """The samples of a table; what is left out or changed is counted in the notes."""
        options = self.options
        for key in ("id", "label", "answer", "source", "cluster"):
            if column := getattr(options, key):
                check_column(f"task.options.{key}", column, table)
        for column in [*options.filter, *(options.fields or [])]:
            check_column("task.options.filter" if column in options.filter else "task.options.fields", column, table)
        fields = self._fields(table, name, notes)
        dropped: Counter[str] = Counter()
        composed = 0
        seen: dict[str, str] = {}
        found = []
        for number, (row, place) in enumerate(zip(table.rows, table.places, strict=True), 1):
            reason = self._left_out(row, fields)
            if reason:
                dropped[reason] += 1
                continue
            raw = {field_name(column): _text(row[column]) for column in fields}
            texts = {key: compose_hangul(text) for key, text in raw.items()}
            composed += texts != raw
            sample = self._sample(row, place, number, texts)
            if sample.id in seen:
                raise DataError(
                    f"{place}: the id '{one_line(sample.id, 60)}' comes twice (first in {seen[sample.id]}), expected "
                    "unique ids; without task.options.id the rows are numbered"
                )
            seen[sample.id] = place
            found.append(sample)
        notes += [*table.notes, f"{name}: {len(found):,} of {len(table.rows):,} rows"]
        notes += [f"{name}: {count:,} left out {reason}" for reason, count in sorted(dropped.items())]
        if composed:
            notes.append(f"{name}: the decomposed Hangul of {composed:,} rows is composed (NFC)")
        return found

    def _fields(self, table: Table, name: str, notes: list[str]) -> list[str]:
        options = self.options
        if options.fields is not None:
            return options.fields
        special = {options.id, options.label, options.answer, options.source, options.cluster}
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
            if _text(row[column]) not in ([wanted] if isinstance(wanted, str) else wanted):
                return f"with another '{column}' than task.options.filter names"
        gold = row[self.options.label or self.options.answer]
        if gold is None or (isinstance(gold, str) and not gold.strip()) or (isinstance(gold, Cells) and not gold.texts):
            return "without a label" if self.options.label else "without an answer"
        if not any(_text(row[column]).strip() for column in fields):
            return "without text"
        return ""

    def _sample(self, row: Mapping[str, Cell], place: str, number: int, texts: Mapping[str, str]) -> Sample:
        options = self.options
        missing = [column for column in options.fields or [] if row[column] is None]
        if missing:
            raise DataError(f"{place} has no '{missing[0]}', which task.options.fields names; expected a text")
        gold, answers = NO_CLASS, tuple[str, ...]()
        if options.label:
            label = _text(row[options.label])
            if label not in self.classes:
                raise DataError(
                    f"{place}: the label is '{one_line(label, 60)}'{did_you_mean(label, self.classes)}, expected one "
                    f"of {one_line(str(self.classes), 160)} (task.options.classes)"
                )
            gold = self.classes.index(label)
        else:
            cell = row[options.answer]
            answers = cell.texts if isinstance(cell, Cells) else (_text(cell),)
        return Sample(
            id=_text(row[options.id]) if options.id else str(number),
            fields=texts,
            gold=gold,
            answers=answers,
            source=_text(row[options.source]) if options.source else "",
            cluster=_text(row[options.cluster]) if options.cluster else "",
        )


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


def classes_of(table: Table, column: str) -> list[str]:
    """The texts of a label column, in the order of numbers where all are numbers.

    Raises:
        DataError: too few or too many to be classes.
    """
    counts = Counter(_text(row[column]) for row in table.rows)
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
    try:
        return sorted(counts, key=float)
    except ValueError:
        return sorted(counts)


def _classes_seen(config: TaskConfig, options: TableOptions) -> list[str]:
    test, _ = places(config, options)
    table = read_table(test, options.encoding)
    check_column("task.options.label", options.label, table)
    return classes_of(table, options.label)


def _text(cell: Cell) -> str:
    if isinstance(cell, Cells):
        return "\n".join(cell.texts)
    return cell or ""


def _content(sample: Sample) -> tuple[str, ...]:
    return tuple(sample.fields.values())


def _without_asked(shown: Sequence[Sample], asked: Sequence[Sample], notes: list[str]) -> list[Sample]:
    texts = {_content(sample) for sample in asked}
    kept = [sample for sample in shown if _content(sample) not in texts]
    if len(kept) < len(shown):
        notes.append(f"{len(shown) - len(kept):,} demonstrations whose texts are asked about too, left out")
    return kept


def _split(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Samples to ask about, and a seeded share to show. What belongs together stays on one side."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.source or sample.cluster or "\0".join(_content(sample)), []).append(sample)
    wanted, shown = round(share * len(samples)), set[str]()
    for key in sorted(groups, key=lambda key: hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()):
        if wanted <= 0 or len(shown) == len(groups) - 1:
            break
        shown.add(key)
        wanted -= len(groups[key])
    put_aside = {sample.id for key in shown for sample in groups[key]}
    return [s for s in samples if s.id not in put_aside], [s for s in samples if s.id in put_aside]


TASK = Task(
    name="table",
    version="1",
    description="a table of your own: CSV, TSV, JSON, parquet or xlsx",
    templates=None,
    expected_files=("a table, named in task.data_dir or task.options.test",),
    load=load,
    options=TableOptions,
    of=of,
)
