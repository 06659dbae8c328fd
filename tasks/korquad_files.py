"""KorQuAD's files, read one article at a time and checked against their schema.

Knows the JSON of KorQuAD 1.0 and 2.1; refuses to know what becomes of the texts. Only what the
task uses is checked: `url`, `raw_html` and the `html_*` keys of version 2.1 may be absent.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from harness.core.errors import DataError
from harness.core.escaping import one_line

_BLOCK = 1 << 20
"""Bytes read at a time."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MOST_DEPTH = 64
"""Levels of objects and lists; the official files have ten."""
_MOST_DIGITS = 640
"""Of a whole number: the least that Python may be set to; the parser crashes on what Python refuses."""
_LONG_NUMBER = re.compile(rb"[:,\[\s]-?[0-9]{%d}" % (_MOST_DIGITS + 1))
_WHOLE_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_HALF = re.compile(rb"(?<!\\)(\\++)(u[dD][89a-fA-F][0-9a-fA-F]{2})")
_LONGEST_PAIR = 12
_KINDS = {str: "text", list: "a list", dict: "an object", int: "a whole number"}


class Schema(StrEnum):
    """The layouts of the official files."""

    V1 = "KorQuAD 1.0"
    """data: [{title, paragraphs: [{context, qas: [{id, question, answers: [{text, answer_start}]}]}]}]"""
    V2 = "KorQuAD 2.1"
    """data: [{title, context, qas: [{id, question, answer: {text, answer_start}}]}]; context is HTML"""


@dataclass(frozen=True)
class Question:
    """One question and its right answers."""

    id: str
    text: str
    answers: tuple[str, ...]
    misplaced: str
    """What is wrong with an `answer_start`, in one line; empty when all point to their answers."""


@dataclass(frozen=True)
class Context:
    """A text with its questions: a paragraph of version 1, a document of version 2."""

    key: str
    """Unique in a set of files, the same in every run."""
    title: str
    """Of the article."""
    text: str
    """Plain in version 1, HTML in version 2."""
    questions: tuple[Question, ...]


def read_contexts(paths: Iterable[Path], schema: Schema) -> Iterator[Context]:
    """All contexts of the files in order; no more than one article is in memory.

    Raises:
        DataError: unreadable, broken JSON, another schema, a missing key, a wrong type, an id that
            comes twice; names the file, the article and the question.
    """
    seen: set[str] = set()
    for path in paths:
        for number, article in _articles(path, schema):
            where = f"'{path}' article {number}"
            if not isinstance(article, dict):
                raise DataError(f"{where} is {article!r:.60}, expected an object as in {schema}")
            title = _value(where, article, "title", str)
            where += f" ('{one_line(title, 80)}')"
            for context in _contexts(where, article, f"{path.stem}:{number}", title, schema):
                for question in context.questions:
                    if question.id in seen:
                        shown = one_line(question.id, 60)
                        raise DataError(f"{where}: the question id '{shown}' comes twice, expected unique ids")
                    seen.add(question.id)
                yield context


def _articles(path: Path, schema: Schema) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"'{path}' is no file; expected {schema}'s JSON")
        with path.open("rb") as file:
            start = len(_BYTE_ORDER_MARK) if file.read(len(_BYTE_ORDER_MARK)) == _BYTE_ORDER_MARK else 0
            for check in (_check_escapes, _check_numbers, _check_depth):
                file.seek(start)
                check(path, file, schema)
            file.seek(start)
            for number, article in enumerate(ijson.items(file, "data.item", buf_size=_BLOCK), 1):
                yield number, article
    except OSError as error:
        raise DataError(
            f"'{path}' cannot be read: {error.strerror or error}; expected {schema}'s JSON that you may read"
        ) from None
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"'{path}' is not valid JSON after article {number}: {reason}; "
            "it may be cut off, download or unpack it again"
        ) from None
    if number == 0:
        raise DataError(f"'{path}' has no articles in a list 'data', expected {schema}'s layout")


def _check_numbers(path: Path, file: BinaryIO, schema: Schema) -> None:
    """Refuse whole numbers of thousands of digits, on which the parser ends the process.

    Raises:
        DataError: naming the bound.
    """
    tail, block, inside = b" ", b"-", False
    while block:
        block = file.read(_BLOCK)
        text = tail + block
        end = _before_backslash(text, len(text) - _MOST_DIGITS - 2) if block else len(text)
        for number in _LONG_NUMBER.finditer(text):
            if number.start() < end and inside == bool(_quotes(text[: number.start()]) % 2):
                raise DataError(
                    f"'{path}' holds a number of more than {_MOST_DIGITS} digits, expected {schema}'s layout"
                )
        inside ^= bool(_quotes(text[:end]) % 2)
        tail = text[end:]


def _quotes(text: bytes) -> int:
    """Quotes that begin or end a JSON text; backslashes before the text's beginning come in pairs."""
    single = text.replace(b"\\\\", b"")
    return single.count(b'"') - single.count(b'\\"')


def _before_backslash(text: bytes, end: int) -> int:
    """The place, or the one before it, where no backslash is cut from its other; backslashes count in pairs."""
    end = max(0, end)
    return end - (end - len(text[:end].rstrip(b"\\"))) % 2


def _check_depth(path: Path, file: BinaryIO, schema: Schema) -> None:
    """Refuse deep nesting, which takes memory with the square of its depth, before anything is built.

    Raises:
        DataError: naming the depth.
    """
    depth = 0
    # What is no JSON is told by the reader of articles, with its place.
    with suppress(ijson.JSONError, UnicodeDecodeError):
        for event, _ in ijson.basic_parse(file, buf_size=_BLOCK):
            depth += event in ("start_map", "start_array")
            depth -= event in ("end_map", "end_array")
            if depth > _MOST_DEPTH:
                raise DataError(f"'{path}' is nested more than {_MOST_DEPTH} levels deep, expected {schema}'s layout")


def _check_escapes(path: Path, file: BinaryIO, schema: Schema) -> None:
    r"""Refuse escapes of half a character, such as `\ud800`, which the parser would turn into a question mark.

    Raises:
        DataError: naming the escape.
    """
    tail, block = b"", b"-"
    while block:
        block = file.read(_BLOCK)
        text = _WHOLE_PAIR.sub(b"", tail + block)
        end = _before_backslash(text, len(text) - _LONGEST_PAIR) if block else len(text)
        for half in _HALF.finditer(text, 0, end):
            if len(half[1]) % 2:
                raise DataError(
                    f"'{path}' holds the escape {half[2].decode()}, half of a character; expected text that UTF-8 "
                    "can hold"
                )
        tail = text[end:]


def _contexts(where: str, article: Mapping[str, Any], key: str, title: str, schema: Schema) -> Iterator[Context]:
    if schema is Schema.V1:
        if "paragraphs" not in article and "context" in article:
            raise DataError(f"{where} follows {Schema.V2}, expected {Schema.V1}; use task.name=korquad2 for this file")
        for index, paragraph in enumerate(_value(where, article, "paragraphs", list), 1):
            place = f"{where}, paragraph {index}"
            if not isinstance(paragraph, dict):
                raise DataError(f"{place} is {paragraph!r:.60}, expected an object with context and qas")
            yield _context(place, where, paragraph, f"{key}:{index}", title, schema)
    elif schema is Schema.V2:
        if "context" not in article and "paragraphs" in article:
            raise DataError(f"{where} follows {Schema.V1}, expected {Schema.V2}; use task.name=korquad1 for this file")
        yield _context(where, where, article, key, title, schema)
    else:
        raise ValueError(f"no reader of schema {schema!r}")


def _context(place: str, where: str, node: Mapping[str, Any], key: str, title: str, schema: Schema) -> Context:
    text = _value(place, node, "context", str)
    if not text.strip():
        raise DataError(f"{place} has an empty context, expected text")
    questions = tuple(_question(place, where, qa, text, schema) for qa in _value(place, node, "qas", list))
    return Context(key, title, text, questions)


def _question(place: str, where: str, qa: Any, context: str, schema: Schema) -> Question:
    if not isinstance(qa, dict):
        raise DataError(f"{place} has {qa!r:.60} among its qas, expected objects with id, question and answers")
    number = qa.get("id")
    if not isinstance(number, str | int) or isinstance(number, bool) or number == "":
        found = f"the id {number!r:.60}" if "id" in qa else "no id"
        raise DataError(f"{place} has a question with {found}, expected text or a whole number")
    spot = f"{where}, question '{one_line(str(number), 60)}'"
    text = _value(spot, qa, "question", str)
    if schema is Schema.V1:
        answers = _value(spot, qa, "answers", list)
        if not answers:
            raise DataError(f"{spot} has an empty list of answers, expected at least one")
    else:
        answers = [_value(spot, qa, "answer", dict)]
    texts, misplaced = [], ""
    for answer in answers:
        if not isinstance(answer, dict):
            raise DataError(f"{spot} has the answer {answer!r:.60}, expected an object with text and answer_start")
        gold, start = _value(spot, answer, "text", str), _value(spot, answer, "answer_start", int)
        if not gold.strip():
            raise DataError(f"{spot} has an answer without text, expected some")
        if start < 0 or not context.startswith(gold, start):
            misplaced = misplaced or (
                f"{spot}: answer_start {start} points to {_excerpt(context, start)}, expected {gold[:40]!r}; "
                "the file is damaged or not the official one"
            )
        texts.append(gold)
    return Question(str(number), text, tuple(texts), misplaced)


def _flat_hint(node: Mapping[str, Any]) -> str:
    """What to say of a row of a data set that was flattened to one question each."""
    if "question" in node and ("answers" in node or "answer" in node) and "qas" not in node:
        return "; it is a flat row, expected articles with paragraphs and qas as in the official files"
    return ""


def _excerpt(context: str, start: int) -> str:
    return repr(context[start : start + 20]) if 0 <= start < len(context) else f"no place in {len(context)} characters"


def _value(where: str, node: Mapping[str, Any], key: str, kind: type) -> Any:
    if key not in node:
        raise DataError(
            f"{where} has no '{key}', expected {_KINDS[kind]}; its keys are: "
            f"{one_line(', '.join(node), 120) or 'none'}{_flat_hint(node)}"
        )
    value = node[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where}: '{key}' is {value!r:.60}, expected {_KINDS[kind]}")
    return value
