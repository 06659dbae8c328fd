"""Choices of a table's rows, and what its column of answers means by them: a text, a letter, or a number.

Knows cells; refuses to know samples and files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.core.errors import ConfigError, DataError
from harness.core.escaping import one_line
from harness.core.hangul import compose_hangul
from harness.core.task import MOST_CHOICES
from tasks.table_cells import Cell, Cells, Table

Reading = Literal["text", "letter", "0", "1"]
"""What answers may be: the choice's own text, its letter, or its number counted from 0 or from 1."""
READINGS: tuple[Reading, ...] = ("text", "letter", "0", "1")
LETTERS = (
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "abcdefghijklmnopqrstuvwxyz",
    "①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳",
    "가나다라마바사아자차카타파하",
    "ㄱㄴㄷㄹㅁㅂㅅㅇㅈㅊㅋㅌㅍㅎ",
)
_AROUND = "().[]<>:"


@dataclass(frozen=True)
class RowChoices:
    """The choices of one row; cells without text are passed over."""

    texts: tuple[str, ...]
    places: tuple[int, ...]
    """Where each stands among the row's cells, to which letters and numbers refer."""


def choices_of(row: Mapping[str, Cell], columns: Sequence[str]) -> RowChoices:
    """What the columns hold: one column with lists of texts, or one column per choice."""
    cells: list[str] = []
    for column in columns:
        cell = row[column]
        cells += cell.texts if isinstance(cell, Cells) else [cell or ""]
    kept = [(place, compose_hangul(text)) for place, text in enumerate(cells) if text.strip()]
    return RowChoices(tuple(text for _, text in kept), tuple(place for place, _ in kept))


def answer_in(choices: RowChoices, answer: str, reading: str) -> int | None:
    """Which of the choices an answer means; None where it means none of them.

    Args:
        choices: of the row.
        answer: what the row's cell holds.
        reading: of `READINGS`.
    """
    if reading == "text":
        wanted = compose_hangul(answer)
        found = [place for place, text in enumerate(choices.texts) if text == wanted]
        found = found or [place for place, text in enumerate(choices.texts) if text.strip() == wanted.strip()]
        return found[0] if found else None
    mark = answer.strip()
    if reading == "letter":
        mark = mark.strip(_AROUND)
        place = next((marks.index(mark) for marks in LETTERS if len(mark) == 1 and mark in marks), -1)
    else:
        # Tables of numbers may hold them as 1.0.
        number = mark.removesuffix(".0")
        place = int(number) - int(reading) if number.isascii() and number.isdigit() and len(number) < 4 else -1
    return choices.places.index(place) if place in choices.places else None


def reading_of(table: Table, columns: Sequence[str], answer: str) -> Reading:
    """What the answers of a table mean.

    Raises:
        ConfigError: two readings fit all rows and mean other choices.
    """
    fitting = readings_of(table, columns, answer)
    if len(fitting) > 1:
        raise ConfigError(
            f"the column '{one_line(answer, 60)}' may hold {' or '.join(map(described, fitting))}: set "
            f"task.options.answer_is to one of {', '.join(fitting)}"
        )
    return fitting[0]


def readings_of(table: Table, columns: Sequence[str], answer: str) -> list[Reading]:
    """The readings by which every answer is among its choices; one of those that mean the same.

    Where none fits all rows, the one that fits most; a row that it does not fit is refused as it is read.
    """
    rows = [(choices_of(row, columns), text) for row in table.rows if (text := _text(row[answer])).strip()]
    meant = {reading: [answer_in(choices, text, reading) for choices, text in rows] for reading in READINGS}
    fits = {reading: sum(place is not None for place in places) for reading, places in meant.items()}
    whole: dict[tuple[int | None, ...], Reading] = {}
    for reading in READINGS:
        if rows and fits[reading] == len(rows):
            whole.setdefault(tuple(meant[reading]), reading)
    return list(whole.values()) or [max(READINGS, key=lambda reading: fits[reading])]


def described(reading: str) -> str:
    """A reading in words."""
    words = {"text": "texts of choices", "letter": "letters of choices"}
    return words.get(reading, f"numbers of choices counted from {reading}")


def most_choices(tables: Sequence[Table], columns: Sequence[str]) -> int:
    """Of one row of some tables.

    Raises:
        DataError: more than a sample may have.
    """
    most = 0
    for table in tables:
        for row, place in zip(table.rows, table.places, strict=True):
            count = len(choices_of(row, columns).texts)
            if count > MOST_CHOICES:
                raise DataError(f"{place}: {count} choices, expected 2 to {MOST_CHOICES} (task.options.choices)")
            most = max(most, count)
    return most


def _text(cell: Cell) -> str:
    return "\n".join(cell.texts) if isinstance(cell, Cells) else cell or ""
