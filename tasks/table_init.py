"""`harness init`: looks at a table and writes a grid and templates that run as they are.

Asks nothing: what it cannot tell is said in one line with the option that tells it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from harness.config.schema import TaskConfig
from harness.core.errors import DataError
from harness.core.escaping import one_line
from harness.core.giveaways import is_answer, names_classes
from harness.core.task import Starter, StartWishes
from tasks.table import SPLIT_SHARE, places
from tasks.table_cells import Cells, Table, field_name, fields_fault
from tasks.table_choices import Reading, answer_in, choices_of, described, most_choices, readings_of
from tasks.table_files import read_table
from tasks.table_rows import TableOptions, cell_text, check_column, classes_of

LABEL_NAMES = (
    "label",
    "labels",
    "class",
    "category",
    "sentiment",
    "target",
    "y",
    "라벨",
    "레이블",
    "감정",
    "분류",
    "긍부정",
)
ANSWER_NAMES = ("answer", "answers", "gold", "correct", "label", "target", "정답", "답", "라벨")
ID_NAMES = ("id", "no", "number", "idx", "index", "guid", "uid", "uuid", "key", "번호", "순번", "아이디")
MOST_SEEN_CLASSES = 20
"""A column with more different texts is not taken for a label unless it is named."""
MOST_FIELDS = 4
MOST_STEM_BYTES = 120
"""Of the name of a run; file systems allow 255 for a name with its ending."""
GOOD_K = 4
GOOD_LIMIT = 1000
"""Samples that a first grid asks about; the comment says how to take all."""


_UNPRINTED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


@dataclass(frozen=True)
class _Seen:
    """What was understood of a table."""

    column: str
    """Of labels, or of answers."""
    classes: list[str]
    """None of a task whose answers are written."""
    identity: str
    fields: list[str]
    passed_over: list[str]
    pool: Path | None
    n_pool: int
    choices: list[str]
    """Columns; none where all rows have the same classes, or answers are written."""
    readings: list[Reading]
    """What the answers may mean of the choices."""


def start(place: Path, wishes: StartWishes) -> Starter:
    """A grid and templates for a table.

    Args:
        place: file or folder.
        wishes: from the command line.

    Raises:
        DataError: no table, or no column that can be told to be the label.
    """
    test, pool = places(TaskConfig(name="table", data_dir=str(place)), TableOptions(encoding=wishes.encoding))
    table = read_table(test, wishes.encoding)
    choices = _choices_of(table, wishes.choices)
    column = wishes.answer or wishes.label or (_answer_of(table, choices) if choices else _label_of(table))
    check_column("--label" if wishes.label else "--answer", column, table)
    classes = [] if wishes.answer or choices else classes_of(table, column)
    readings = readings_of(table, choices, column) if choices else []
    identity = _id_of(table, column)
    told = [cell_text(row[column]) for row in table.rows]
    rights = _right_choices(table, choices, told, readings[0]) if choices else told
    fields, passed_over = _fields_of(table, column, {identity, *choices}, rights, bool(classes))
    if fault := fields_fault(fields):
        raise DataError(f"'{test}': {fault}")
    n_pool = round(SPLIT_SHARE * len(table.rows)) if pool is None else len(read_table(pool, wishes.encoding).rows)
    seen = _Seen(column, classes, identity, fields, passed_over, pool, n_pool, choices, readings)
    stem = _shortened(field_name(place.stem).strip("_")) or "table"
    grid = "\n".join(_grid(place, stem, seen, wishes, len(table.rows))) + "\n"
    written = choice_templates(_body(seen), wishes.chat) if choices else _templates(seen, wishes.chat)
    templates = "\n".join(written) + "\n"
    told = [f"{test}: {len(table.rows):,} rows, {len(table.columns)} columns", *table.notes, *_told(table, seen)]
    return Starter(stem, grid, templates, [one_line(line, 400) for line in told])


def _shortened(stem: str) -> str:
    """Short enough for the name of a run and of files."""
    return stem.encode(errors="ignore")[:MOST_STEM_BYTES].decode(errors="ignore")


def _told(table: Table, seen: _Seen) -> Iterator[str]:
    counts = Counter(cell_text(row[seen.column]) for row in table.rows)
    listed = ", ".join(f"{name} ({counts[name]:,})" for name in seen.classes)
    yield f"label: {seen.column}, {len(seen.classes)} classes: {listed}" if listed else f"answer: {seen.column}"
    if seen.choices:
        most = most_choices([table], seen.choices)
        yield f"choices: {', '.join(seen.choices)}, {most} at most; {seen.column} holds {described(seen.readings[0])}"
    for reading in seen.readings[1:]:
        yield f"CHECK: {seen.column} may hold {described(reading)} as well; then set answer_is to {reading}"
    yield f"id: {seen.identity}" if seen.identity else "id: the number of the row (no column of unique ids)"
    for name in seen.fields:
        yield f"text: {name}, {_mean_length(table, name):.0f} characters on average"
    if seen.passed_over:
        yield f"not used: {', '.join(seen.passed_over)}"
    if seen.pool is not None:
        yield f"demonstrations: from {seen.pool}"
    else:
        yield f"demonstrations: {SPLIT_SHARE:.0%} of the rows, put aside by a seeded draw (no file named train)"


def _label_of(table: Table) -> str:
    counts = {name: len({cell_text(row[name]) for row in table.rows} - {""}) for name in table.columns}
    few = [name for name, n in counts.items() if 2 <= n <= min(MOST_SEEN_CLASSES, len(table.rows) / 2)]
    named = [name for name in few if field_name(name).lower().split("_")[-1] in LABEL_NAMES]
    if len(named) == 1:
        return named[0]
    if not named and len(few) == 1:
        return few[0]
    candidates = named or few or table.columns
    raise DataError(
        f"which column is the label cannot be told; name it with --label (or --answer for written answers), one of: "
        f"{one_line(', '.join(candidates), 200)}"
    )


def _choices_of(table: Table, wished: Sequence[str]) -> list[str]:
    """The columns named, each by itself or several with commas between."""
    columns: list[str] = []
    for text in wished:
        columns += [text] if text in table.columns else [name.strip() for name in text.split(",")]
    for column in columns:
        check_column("--choices", column, table)
    return columns


def _answer_of(table: Table, choices: Sequence[str]) -> str:
    named = [n for n in table.columns if field_name(n).lower().split("_")[-1] in ANSWER_NAMES and n not in choices]
    if len(named) != 1:
        raise DataError(
            "which column says what choice is right cannot be told; name it with --answer, one of: "
            f"{one_line(', '.join(named or [name for name in table.columns if name not in choices]), 200)}"
        )
    return named[0]


def _id_of(table: Table, label: str) -> str:
    for name in table.columns:
        texts = [cell_text(row[name]) for row in table.rows]
        named = name != label and field_name(name).lower().split("_")[-1] in ID_NAMES
        if named and all(texts) and len(set(texts)) == len(texts):
            return name
    return ""


def _right_choices(table: Table, choices: Sequence[str], told: Sequence[str], reading: Reading) -> list[str]:
    """The text of the right choice of each row; an empty one where it cannot be told."""
    own = [choices_of(row, choices) for row in table.rows]
    places = [answer_in(one, text, reading) for one, text in zip(own, told, strict=True)]
    return [one.texts[place] if place is not None else "" for one, place in zip(own, places, strict=True)]


def _fields_of(
    table: Table, label: str, others: set[str], rights: Sequence[str], has_classes: bool
) -> tuple[list[str], list[str]]:
    """Columns of texts in the order of the file, and those left out.

    A column that holds nothing but labels is another label, such as one annotator's; one whose few texts stand with one
    label each is its name, one that holds the right answers is another of them: shown, they would give answers away.
    """
    taken = {label, *others}
    labels = {cell_text(row[label]) for row in table.rows}
    texts = []
    for name in table.columns:
        cells = [row[name] for row in table.rows]
        shown = [cell_text(cell) for cell in cells]
        numbers = sum(text.replace(".", "", 1).lstrip("-").isdigit() for text in shown)
        complete = not any(cell is None or isinstance(cell, Cells) for cell in cells)
        wordy = len(set(shown)) > 1 and numbers < 0.9 * len(shown) and mean(map(len, shown)) >= 2
        tells = is_answer(shown, rights) or (has_classes and names_classes(shown, rights))
        if name not in taken and complete and wordy and not tells and not set(shown) <= labels:
            texts.append(name)
    lengths = {name: _mean_length(table, name) for name in texts}
    most = sorted(lengths.values(), reverse=True)[:MOST_FIELDS]
    if not most:
        raise DataError("the table has no column of texts beside the label; expected one that prompts can show")
    kept = [name for name in texts if lengths[name] >= max(most[-1], most[0] / 10)]
    return kept, [name for name in table.columns if name not in kept and name not in taken]


def _mean_length(table: Table, name: str) -> float:
    return mean(len(cell_text(row[name])) for row in table.rows)


def _quoted(text: str) -> str:
    """As a double-quoted scalar of YAML, in one line: what YAML does not print is escaped as JSON escapes it."""
    return _UNPRINTED.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False))


def _listed(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _grid(place: Path, stem: str, seen: _Seen, wishes: StartWishes, n_rows: int) -> Iterator[str]:
    first = ["letters", "circled", "cloze"] if seen.choices else ["question", "short", "english"]
    names = [*first, *(["chat"] if wishes.chat else [])]
    shown = _quoted(one_line(place.name, 80))
    yield f"# Compares {len(names)} wordings on {shown}. configs/README.md explains every key."
    yield f"name: {_quoted(stem)}  # results go to data_out/{stem}"
    yield "model:"
    yield "  # A folder or a name on the hub; or write model.path=... behind the command."
    yield '  path: "data_in/models/ko-tiny"'
    yield "task:"
    yield "  name: table"
    yield f"  data_dir: {_quoted(str(place))}"
    yield f"  templates_file: {_quoted(str(wishes.folder / f'{stem}_templates.yaml'))}"
    if n_rows > 1.5 * GOOD_LIMIT:
        yield f"  limit: {GOOD_LIMIT}  # rows that are asked about; null takes all"
    yield "  options:"
    yield f"    {'label' if seen.classes else 'answer'}: {_quoted(seen.column)}"
    if seen.choices:
        one = len(seen.choices) == 1
        yield f"    choices: {_quoted(seen.choices[0]) if one else _listed(seen.choices)}"
        others = f", or {' or '.join(map(described, seen.readings[1:]))}?" if seen.readings[1:] else ""
        yield f"    answer_is: {_quoted(seen.readings[0])}  # {described(seen.readings[0])}{others}"
    if seen.classes:
        yield f"    classes: {_listed(seen.classes)}  # in the order of the templates' labels"
    if seen.identity:
        yield f"    id: {_quoted(seen.identity)}  # column of unique ids"
    yield f"    fields: {_listed(seen.fields)}  # columns that templates may name in braces"
    if seen.pool is None:
        yield f"    pool_share: {SPLIT_SHARE:g}  # of the rows, put aside for demonstrations"
    if wishes.encoding.lower() != "utf-8":
        yield f"    encoding: {_quoted(wishes.encoding)}"
    yield "grid:"
    yield f"  templates: [{', '.join(names)}]"
    yield f"  k: {[0, min(GOOD_K, seen.n_pool)] if seen.n_pool else [0]}  # demonstrations in a prompt"
    yield "  seeds: [1, 2, 3]  # draws of demonstrations; one draw alone says little about a template"
    yield "demos:"
    yield "  max_tokens: null  # longest text that may be a demonstration"
    if not seen.classes and not seen.choices:
        yield "generation:"
        yield "  max_new_tokens: 32  # of an answer"


def _body(seen: _Seen) -> str:
    """The columns as a query shows them."""
    names = [field_name(name) for name in seen.fields]
    named = [f"{_literal(c)}: {{{n}}}" for c, n in zip(seen.fields, names, strict=True)]
    return "\n".join(named) if named[1:] else f"{{{names[0]}}}"


def choice_templates(body: str, chat: bool) -> Iterator[str]:
    """Wordings of questions with choices of their own.

    Args:
        body: the query without its choices.
        chat: also one for models with a chat template.
    """
    yield "# Wordings of the prompt: query + label + separator for each demonstration, then the query. {name} stands"
    yield "# for a column, {choices} for the choices. `label` is what is scored for each: its marker, or its own text."
    for name, description, query, choices in (
        ("letters", "The choices with letters; the letter answers.", f"{body}\n{{choices}}\n정답:", "{markers: A}"),
        (
            "circled",
            "The choices with circled numbers, as in Korean examinations.",
            f"{body}\n{{choices}}\n정답:",
            '{markers: "①", shown: "{marker} {choice}"}',
        ),
        (
            "cloze",
            "Each choice's own text answers, by log-probability per character.",
            f"{body}\n정답:",
            '{label: " {choice}", score: per_character}',
        ),
    ):
        yield f"{name}:"
        yield f"  description: {_quoted(description)}"
        yield f"  query: {_quoted(query)}"
        yield f"  choices: {choices}"
        yield '  separator: "\\n\\n"'
    if chat:
        yield "chat:"
        yield '  description: "The question and its choices as a message, for models with a chat template."'
        yield "  render: chat"
        yield '  prefix: "정답의 글자 하나로만 답하세요.\\n\\n"'
        yield f"  query: {_quoted(body + chr(10) + '{choices}')}"
        yield '  choices: {markers: A, label: "{marker}"}'


def _templates(seen: _Seen, chat: bool) -> Iterator[str]:
    body = _body(seen)
    if seen.classes:
        korean = f"다음 글은 {_literal(', '.join(seen.classes))} 가운데 무엇인가요?\n\n"
        english = f"Classify each text: {_literal(' or '.join(seen.classes))}.\n\n"
    else:
        korean, english = "다음을 읽고 짧게 답하세요.\n\n", "Answer briefly.\n\n"
    last, last_english = ("분류:", "Label:") if seen.classes else ("답:", "Answer:")
    yield "# Wordings of the prompt: prefix + (query + label + separator) for each demonstration + query."
    yield "# {name} stands for a column. Labels are in the order of task.options.classes and begin with a blank where"
    yield "# the query does not end in one. Add wordings of your own, and name them in grid.templates."
    for name, description, prefix, end, separator in (
        ("question", "A question in Korean.", korean, "답:", "\n\n"),
        ("short", "Text and answer, nothing more.", "", last, "\n"),
        ("english", "The instruction in English.", english, last_english, "\n\n"),
    ):
        yield f"{name}:"
        yield f"  description: {_quoted(description)}"
        yield f"  prefix: {_quoted(prefix)}"
        yield "  query: " + _quoted(f"{body}\n{end}")
        yield _answers(seen.classes, " ")
        yield f"  separator: {_quoted(separator)}"
    if chat:
        yield "chat:"
        yield '  description: "The question as a message, for models with a chat template."'
        yield "  render: chat"
        yield f"  prefix: {_quoted(korean)}"
        yield f"  query: {_quoted(body)}"
        yield _answers(seen.classes, "")


def _answers(classes: Sequence[str], blank: str) -> str:
    if not classes:
        return f"  answer: {_quoted(blank + '{answer}')}"
    return f"  labels: {_listed([blank + name for name in classes])}"


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
