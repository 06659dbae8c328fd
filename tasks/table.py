"""A table of your own as a task: which column is the text, which the label or the answer. No code needed.

Texts stay what the file holds; what is left out is counted by its reason. The options are described in
`docs/adding_a_task.md`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from harness.config.schema import TaskConfig
from harness.core.errors import ConfigError, DataError
from harness.core.escaping import one_line
from harness.core.numerals import number_of, numbers_in
from harness.core.task import Sample, Starter, StartWishes, Task, TaskData
from harness.core.task_options import read_options
from tasks.korquad import best_of_golds
from tasks.korquad_metrics import exact_match, f1_score, normalise
from tasks.table_choices import described, most_choices, reading_of
from tasks.table_files import READERS, read_table, tables_in
from tasks.table_hub import SCHEME, hub_folder
from tasks.table_rows import Rows, TableOptions, check_column, classes_of, parts_of

SPLIT_SHARE = 0.2
"""Of the rows that may be demonstrations, where no file and no share is named."""
TEST_NAMES, POOL_NAMES = ("test", "dev", "validation", "valid"), ("train", "pool")
"""How files of a folder begin that hold what is asked, and what is shown."""


def same_answer(prediction: str, gold: str) -> float:
    """KorQuAD's exact match, but for what its rules would delete of numbers and signs.

    They leave punctuation out, so that 3.5 was 35, -5 was 5, and any sign or nothing was any other sign.
    """
    if not exact_match(prediction, gold):
        return 0.0
    if not normalise(gold):
        return float(prediction.strip() == gold.strip())
    if (number := number_of(gold)) is not None:
        return float(numbers_in(prediction) == [number])
    return 1.0


ANSWER_METRICS = {"exact_match": best_of_golds(same_answer), "f1": best_of_golds(f1_score)}


def of(config: TaskConfig) -> tuple[Task, TableOptions]:
    """The task that the options make: with classes, with choices of each row, or with answers.

    Raises:
        ConfigError: neither label nor answer, or both; or answers that mean choices in two ways.
        DataError: the classes are not told and cannot be seen.
    """
    options = read_options(config, TableOptions)
    if options.choices:
        return _with_choices(config, options)
    if bool(options.label) == bool(options.answer):
        both = "both name a column" if options.label else "name no column"
        raise ConfigError(
            f"task.options.label and task.options.answer {both}; expected one: label for classes, answer for written "
            "answers"
        )
    if options.answer:
        return dataclasses.replace(TASK, version="2", answer_metrics=ANSWER_METRICS, of=None), options
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


def _with_choices(config: TaskConfig, options: TableOptions) -> tuple[Task, TableOptions]:
    if options.label or options.classes or not options.answer:
        raise ConfigError(
            "task.options.choices needs task.options.answer, the column that says which choice is right, and neither "
            "label nor classes"
        )
    columns = options.choice_columns
    if options.most_choices is None or not options.answer_is:
        test, pool = places(config, options)
        tables = [read_table(path, options.encoding) for path in (test, pool) if path is not None]
        for table in tables:
            for key, column in [*(("choices", column) for column in columns), ("answer", options.answer)]:
                check_column(f"task.options.{key}", column, table)
        most = options.most_choices or max(2, most_choices(tables, columns))
        reading = options.answer_is or reading_of(tables[0], columns, options.answer)
        options = dataclasses.replace(options, most_choices=most, answer_is=reading)
    names = tuple(str(number) for number in range(1, (options.most_choices or 0) + 1))
    return dataclasses.replace(TASK, class_names=names, choices=True, of=None), options


def load(config: TaskConfig) -> TaskData:
    """Test samples and demonstrations."""
    options = read_options(config, TableOptions)
    test_path, pool_path = places(config, options)
    notes: list[str] = []
    rows = Rows(options)
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
    if options.choices:
        notes.append(f"the column '{options.answer}' holds {described(options.answer_is)}")
        twice = sum(len(set(map(str.strip, one.choices))) < len(one.choices) for one in [*asked, *shown])
        notes += [f"rows that have a choice twice: {twice:,}; an answer in words means the first"] if twice else []
    if not asked:
        raise DataError(f"'{test_path}' leaves no row to ask about; {'; '.join(notes)}")
    longest = max(asked[0].fields, key=lambda name: sum(len(sample.fields[name]) for sample in asked))
    return TaskData(asked, shown, length_field=longest, notes=notes)


def parts(config: TaskConfig) -> dict[str, TaskConfig]:
    """The parts of the rows that are asked about, in their order; none where the options name none.

    Raises:
        DataError: no such file or column.
    """
    options = read_options(config, TableOptions)
    if not options.parts and not options.parts_in_name:
        return {}
    test, _ = places(config, options)
    found = sorted(set(parts_of(options, read_table(test, options.encoding))) - {""})
    return {name: dataclasses.replace(config, options={**config.options, "part": name}) for name in found}


def places(config: TaskConfig, options: TableOptions) -> tuple[Path, Path | None]:
    """Where the rows lie that are asked about, and the solved examples; None where the first are to be split.

    Raises:
        DataError: `task.data_dir` is not there, or does not tell which file is which.
    """
    folder = hub_folder(config.data_dir) if config.data_dir.startswith(SCHEME) else Path(config.data_dir)
    if not folder.exists():
        raise DataError(f"no file or folder '{folder}'; expected a table: {', '.join(READERS)}")
    if options.pool and options.pool_share is not None:
        raise ConfigError("task.options.pool and task.options.pool_share are both given, expected one of them")
    files = tables_in(folder) if folder.is_dir() else []
    test = folder / options.test if options.test else _named(files, TEST_NAMES)
    if test is None:
        test = files[0] if len(files) == 1 else folder
        _check_all_are_asked(folder, files)
    if options.pool:
        return test, folder / options.pool if folder.is_dir() else folder.parent / options.pool
    pool = None if options.pool_share is not None or test == folder else _named(files, POOL_NAMES)
    return test, pool if pool != test else None


def _check_all_are_asked(folder: Path, files: Sequence[Path]) -> None:
    """Refuse to ask about solved examples because no file, or several, are named as those that are asked about.

    Raises:
        DataError: some files are named as solved examples, others are not.
    """
    shown = [file.name for file in files if any(_is_named(file, name) for name in POOL_NAMES)]
    others = [file.name for file in files if file.name not in shown]
    if shown and others:
        raise DataError(
            f"'{folder}' holds {one_line(', '.join(shown[:3]), 120)} and {one_line(', '.join(others[:5]), 200)}: which "
            "of them is asked about cannot be told by its name; name one file, or a folder that holds several, in "
            "task.options.test"
        )


def _is_named(file: Path, name: str) -> bool:
    return file.stem.lower().startswith(name) or file.stem.lower().endswith(name)


def _named(files: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The file whose name begins with one of some names; None where none does, or several do."""
    for name in names:
        found = [file for file in files if _is_named(file, name)]
        if len(found) == 1:
            return found[0]
    return None


def _classes_seen(config: TaskConfig, options: TableOptions) -> list[str]:
    test, _ = places(config, options)
    table = read_table(test, options.encoding)
    check_column("task.options.label", options.label, table)
    return classes_of(table, options.label)


def _content(sample: Sample) -> tuple[str, ...]:
    return (*sample.fields.values(), *sample.choices)


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


def _start(place: Path, wishes: StartWishes) -> Starter:
    from tasks.table_init import start  # it needs this module

    return start(place, wishes)


TASK = Task(
    name="table",
    version="1",
    description="a table of your own: CSV, TSV, JSON, parquet or xlsx",
    templates=None,
    expected_files=("a table, named in task.data_dir or task.options.test",),
    load=load,
    options=TableOptions,
    of=of,
    parts=parts,
    start=_start,
)
