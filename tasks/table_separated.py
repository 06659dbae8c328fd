"""Files of separated cells (CSV, TSV), and the encodings of all text files."""

from __future__ import annotations

import codecs
import csv
import io
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from harness.core.errors import DataError
from harness.core.escaping import one_line
from harness.core.user_files import read_bytes
from tasks.table_cells import Table, header_fault

MOST_BYTES = 2**31
_HALF = re.compile("[\ud800-\udfff]")
SEPARATORS = (",", "\t", ";", "|")
MOST_LABELS = 20
"""Different texts of a column that may be one of labels."""
csv.field_size_limit(sys.maxsize)


def decoded(file: Path, encoding: str) -> str:
    """A file's text without a byte order mark, its line ends as they are.

    Raises:
        DataError: another encoding, or UTF-8 read as one that takes any bytes; names the one that is likely.
    """
    data = read_bytes(file, "table", "a file with rows", DataError, MOST_BYTES)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) and not encoding.lower().startswith("utf-16"):
        raise DataError(f"'{file}' is UTF-16; set task.options.encoding=utf-16, or save it as UTF-8")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # `unicode_escape` warns of backslashes that it does not know
            text = data.decode(encoding).removeprefix("\ufeff")
        if not text.isascii() and _HALF.search(text):
            raise DataError(f"'{file}' holds halves of characters when it is read as {encoding}; save it as UTF-8")
        if not data.isascii() and not _is_utf(encoding) and _decodes(data, "utf-8"):
            raise DataError(
                f"'{file}' is UTF-8, which task.options.encoding={one_line(encoding, 40)} takes for other characters; "
                "set task.options.encoding=utf-8"
            )
        return text
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        hint = "save it as UTF-8"
        for other in ("utf-8", "cp949"):
            if other != encoding.lower() and _decodes(data, other):
                hint = f"it is likely {other}: set task.options.encoding={other}"
                break
        raise DataError(f"'{file}' is not {encoding}: byte {data[error.start]:#04x} in line {line}; {hint}") from None
    except (LookupError, ValueError, Warning):
        raise DataError(
            f"task.options.encoding is '{one_line(encoding, 40)}', expected one such as utf-8 or cp949"
        ) from None


def _is_utf(encoding: str) -> bool:
    return codecs.lookup(encoding).name.startswith("utf-")


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def read_separated(file: Path, encoding: str) -> Table:
    """Rows of separated cells; a quotation mark is quoting where all pair up as such, else text.

    Raises:
        DataError: the encoding, or a row that does not fit; names the line.
    """
    text = decoded(file, encoding)
    header = text.split("\n", 1)[0].split("\r", 1)[0]
    usual = "\t" if file.suffix.lower() == ".tsv" else ","
    separator = usual if usual in header else max(SEPARATORS, key=header.count)
    other = separator != usual and separator in header
    notes = [f"{file.name}: cells are separated by {separator!r}"] if other else []
    table, fault = _parsed(file, text, separator, csv.QUOTE_MINIMAL)
    swallowed = "" if fault else _swallowed(file, table, separator)
    if (fault or swallowed) and '"' in text:
        # Quotation marks that are letters: reviews that begin with one, in a file without quoting.
        plain, still = _parsed(file, text, separator, csv.QUOTE_NONE)
        if not still:
            why = "as quoting they would join rows into one" if swallowed else "they do not pair up as quoting"
            plain.notes += [*notes, f"{file.name}: quotation marks are text, since {why}"]
            return plain
    fault = fault or swallowed
    if fault:
        raise DataError(fault)
    table.notes += notes
    return table


def _swallowed(file: Path, table: Table, separator: str) -> str:
    """What says that a quoted cell holds whole rows, as where two texts happen to begin and end with a quotation mark;
    an empty text where none does.

    A cell of several lines is usual. One whose every line has as many cells as the table, and one of those few texts
    that some column holds elsewhere, such as a label, is not.
    """
    joined = [any("\n" in str(cell) for cell in row.values()) for row in table.rows]
    if not any(joined):
        return ""
    few = []
    for column in table.columns:
        texts = {row[column] for row, many in zip(table.rows, joined, strict=True) if not many}
        few.append(texts - {""} if len(texts) <= MOST_LABELS else set())
    for row, place, many in zip(table.rows, table.places, joined, strict=True):
        lines = separator.join(map(str, row.values())).split("\n") if many else []
        parts = [[cell.strip('\r"') for cell in line.split(separator)] for line in lines]
        if many and all(
            len(cells) == len(few) and any(cell in texts for cell, texts in zip(cells, few, strict=True))
            for cells in parts
        ):
            return (
                f"{place}: a quoted cell holds what looks like {len(parts)} rows; is its first quotation mark a "
                "letter? Double it and put the text in quotes, or take it out"
            )
    return ""


def _mark_lone_returns(text: str) -> str:
    """A character that the text lacks, for carriage returns that end no line: the reader takes none within a row."""
    if not re.search(r"\r(?!\n)", text):
        return ""
    return next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in text)


def _parsed(file: Path, text: str, separator: str, quoting: Any) -> tuple[Table, str]:
    """The table and what is wrong with it; an empty text where nothing is."""
    lone = _mark_lone_returns(text) if "\n" in text else ""
    if lone:
        text = re.sub(r"\r(?!\n)", lone, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True)
    table = Table([], [], [])
    began = 1
    try:
        for cells in reader:
            place = f"'{file}' line {began}"
            began = reader.line_num + 1
            if not cells:
                continue
            if not table.columns:
                table.columns = [cell.strip() for cell in cells]
                if fault := header_fault(place, table.columns):
                    return table, fault
            elif len(cells) != len(table.columns):
                return table, (
                    f"{place}: {len(cells)} cells, expected {len(table.columns)} separated by {separator!r}; is there "
                    "a separator or a quotation mark inside a text without quotes around it, or is the file cut off?"
                )
            else:
                texts = [cell.replace(lone, "\r") for cell in cells] if lone else cells
                table.rows.append(dict(zip(table.columns, texts, strict=True)))
                table.places.append(place)
    except csv.Error as error:
        return table, f"'{file}' line {began}: {error}; expected cells in pairs of quotation marks"
    return table, ""
