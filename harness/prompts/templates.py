"""Templates: prompt wordings as data.

A template is text with named fields in braces (`{{` and `}}` for literal braces). Nothing in
it is evaluated: a field is a name, never an expression.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError, TemplateError, did_you_mean
from harness.core.escaping import one_line, visible
from harness.core.spelling import first_alike, without_white_space_around
from harness.core.task import Sample
from harness.core.user_files import parse_yaml, read_text
from harness.prompts.choices import FIELD, ChoiceWording, read_wording

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_KEYS = (
    "description", "prefix", "query", "labels", "choices", "answer", "separator", "boundary", "render",
    "demonstrations", "system", "without_system", "answer_prefix", "thinking", "source",
)  # fmt: skip
_ANSWER = "answer"
MOST_CHARACTERS = 1_000_000
MOST_FIELDS = 1_000
"""Of one text of a template: what no context could hold."""


class Chat(StrEnum):
    """Where a chat prompt's demonstrations stand."""

    TURNS = "turns"
    """Each one is a turn of the user and the assistant."""
    MESSAGE = "message"
    """All are text in the one message of the user, before the query."""


@dataclass(frozen=True)
class Template:
    """One wording of the prompt.

    prompt = prefix + (query + label or answer + separator) for each demonstration + query
    """

    name: str
    query: str
    """One item up to the place where the label follows; fields in braces."""
    labels: tuple[str, ...] = ()
    """Label text per class, in class order; none for tasks whose answers are generated."""
    prefix: str = ""
    """Text once at the start."""
    separators: tuple[str, ...] = ()
    """Text after a demonstration, per class of its label."""
    description: str = ""
    answer: str = ""
    """A demonstration's answer, with the field `answer`; for tasks whose answers are generated."""
    chat: Chat | None = None
    """How the prompt is put as messages of a chat; None for plain text."""
    choices: ChoiceWording | None = None
    """How the choices that each sample brings are shown and answered; None where all samples have the same classes."""
    is_exact: bool = False
    """Whether labels are what the tokens of prompt and label have beyond those of the prompt, even where both merge."""
    system: str = ""
    """The chat's system message; empty for none."""
    merges_system: bool = False
    """Whether the system message opens the user's first one where the chat template has no system role."""
    answer_prefix: str = ""
    """What the assistant's turns begin with, before label or answer."""
    thinks: bool = False
    """Whether the model thinks before it answers; its reasoning is no part of the answer."""

    def render_query(self, sample: Sample) -> str:
        """The query of one item."""
        if self.choices is None:
            return fill(self.query, sample.fields)
        return fill(self.query, {**sample.fields, FIELD: self.choices.list_of(sample)})

    def asked(self, sample: Sample) -> tuple[str, tuple[str, ...]]:
        """The query that a prompt ends with, and the texts that are scored behind it.

        White space at the end of the query stands before the labels where the boundary is exact.
        """
        query, labels = self.render_query(sample), self.labels_of(sample)
        if not self.is_exact:
            return query, labels
        end = query.rstrip()
        return end, tuple(query[len(end) :] + label for label in labels)

    def render_solved(self, solved: Sample) -> str:
        """One solved example, the separator that follows it included."""
        separator = self.separators[solved.gold if self.labels else 0]
        return self.render_query(solved) + self.continuation(solved) + separator

    def continuation(self, solved: Sample) -> str:
        """What follows the query of a solved example."""
        if self.answer:
            return fill(self.answer, {**solved.fields, _ANSWER: solved.answers[0]})
        return self.labels_of(solved)[solved.gold]

    def labels_of(self, sample: Sample) -> tuple[str, ...]:
        """The texts that are scored for a sample, in the order of its classes; none where answers are generated."""
        return self.labels if self.choices is None else self.choices.labels_of(sample)

    def field_names(self) -> set[str]:
        """The sample's fields that query and answer name."""
        kept = set() if self.choices is None else {FIELD}
        return (_names_in(self.query) - kept) | (_names_in(self.answer) - {_ANSWER})

    def probe(self, text: str) -> Sample:
        """A sample whose texts are all the same."""
        return Sample("", dict.fromkeys([*self.field_names(), _ANSWER], text), choices=(text, text))


def _names_in(pattern: str) -> set[str]:
    return {match.group(1) for match in _FIELD.finditer(pattern) if match.group(1) is not None}


def fill(pattern: str, fields: Mapping[str, str]) -> str:
    """Replace each `{name}` of a pattern by its field's text, in one pass.

    A field's own braces are text: they are not looked at again.
    """

    def replace(match: re.Match[str]) -> str:
        if match.group() in ("{{", "}}"):
            return match.group()[0]
        return fields[match.group(1)]

    return _FIELD.sub(replace, pattern)


def read_templates(path: str | Path, class_names: Sequence[str], choices: bool = False) -> dict[str, Template]:
    """All templates of a YAML file.

    Args:
        path: of the file.
        class_names: of the task; none where its answers are generated.
        choices: whether samples bring their own, see `Task.choices`.

    Raises:
        TemplateError: missing file, bad YAML, unknown key, wrong number of labels.
    """
    text = read_text(path, "templates file", "a YAML file", TemplateError)
    loaded = parse_yaml(text, f"templates file '{path}'", TemplateError)
    if not isinstance(loaded, dict):
        raise TemplateError(f"templates file '{path}' holds no templates; expected name: {{query: ..., labels: ...}}")
    found: dict[str, Template] = {}
    for key, spec in loaded.items():
        name = str(key)
        _check_texts(f"template {one_line(repr(name), 80)} in '{path}'", name, spec)
        if name in found:
            raise TemplateError(f"templates file '{path}' has the template '{name}' twice; expected each name once")
        found[name] = _template(name, spec, path, class_names, choices)
    return found


def choose_templates(names: Sequence[str], known: Mapping[str, Template], field_names: set[str]) -> list[Template]:
    """The named templates, checked against the fields that samples have.

    Raises:
        ConfigError: no such template.
        TemplateError: a template names a field that samples lack.
    """
    for name in names:
        if name not in known:
            raise ConfigError(f"no template '{name}'{did_you_mean(name, known)}")
        missing = known[name].field_names() - field_names
        if missing:
            raise TemplateError(
                f"template '{name}' names the field '{sorted(missing)[0]}', "
                f"but samples have: {', '.join(sorted(field_names))}; use one of them"
            )
    return [known[name] for name in names]


def _template(name: str, spec: Any, path: str | Path, class_names: Sequence[str], choices: bool) -> Template:
    where = f"template '{one_line(name, 80)}' in '{path}'"
    if not isinstance(spec, dict):
        raise TemplateError(f"{where} is not a mapping; expected keys {', '.join(_KEYS)}")
    for key in spec:
        if key not in _KEYS:
            raise TemplateError(f"{where} has an unknown key '{one_line(str(key), 80)}'{did_you_mean(str(key), _KEYS)}")
    query = spec.get("query")
    if not isinstance(query, str) or not query:
        raise TemplateError(f"{where} has no query; expected text with a field such as {{document}}")
    _check_fields(where, query)
    if not any(match.group(1) for match in _FIELD.finditer(query)):
        raise TemplateError(f"{where} has a query without a field; expected one such as {{document}}")
    answer = spec.get("answer", "")
    wording = None
    if "choices" in spec and not choices:
        raise TemplateError(f"{where} has choices, but the task's samples bring none; expected labels or an answer")
    if choices:
        labels: list[str] = []
        if "labels" in spec or answer:
            raise TemplateError(f"{where} has labels or an answer, but each sample has its own choices; use `choices`")
        wording = read_wording(where, spec.get("choices", {}), query, len(class_names))
    elif class_names:
        labels = _labels(where, spec, class_names)
        if answer:
            raise TemplateError(f"{where} has an answer, but the task has classes; expected labels only")
    else:
        labels = []
        if "labels" in spec or not isinstance(answer, str) or f"{{{_ANSWER}}}" not in answer:
            raise TemplateError(f"{where}: expected `answer` with {{{_ANSWER}}} and no labels, for generated answers")
        _check_fields(where, answer)
    separator = spec.get("separator", "\n")
    separators = separator if isinstance(separator, list) else [separator] * max(1, len(labels))
    if len(separators) != max(1, len(labels)) or not all(isinstance(x, str) for x in separators):
        raise TemplateError(
            f"{where}: separator must be text, or a list of {len(labels)} texts (one per class); it is "
            f"{one_line(repr(separator), 80)}"
        )
    prefix, description = spec.get("prefix", ""), spec.get("description", "")
    if not isinstance(prefix, str) or not isinstance(description, str):
        raise TemplateError(f"{where}: prefix and description must be text; put them in quotes")
    chat = _chat(where, spec)
    is_exact = _is_exact(where, spec, bool(chat), bool(class_names))
    return Template(
        name, query, tuple(labels), prefix, tuple(separators), description, answer, chat, wording, is_exact,
        **_of_chat(where, spec, bool(chat)),
    )  # fmt: skip


def _of_chat(where: str, spec: Mapping[str, Any], is_chat: bool) -> dict[str, Any]:
    """What templates of chats may say besides."""
    texts = {key: spec[key] for key in ("system", "answer_prefix") if key in spec}
    for key, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise TemplateError(f"{where}: {key} is {one_line(repr(text), 60)}, expected text; put it in quotes")
    without, thinking = spec.get("without_system", "refuse"), spec.get("thinking", "off")
    # YAML reads a bare on or off as true or false.
    thinking = {True: "on", False: "off"}.get(thinking, thinking) if isinstance(thinking, bool) else thinking
    for key, value, words in (("without_system", without, ("refuse", "merge")), ("thinking", thinking, ("off", "on"))):
        if value not in words:
            raise TemplateError(f"{where}: {key} is {one_line(repr(value), 60)}, expected {' or '.join(words)}")
    given = [key for key in ("system", "without_system", "answer_prefix", "thinking") if key in spec]
    if given and not is_chat:
        raise TemplateError(f"{where}: {given[0]} needs `render: chat`; set it, or drop {given[0]}")
    if "without_system" in spec and "system" not in spec:
        raise TemplateError(f"{where}: without_system is for a template with system; drop it")
    return {**texts, "merges_system": without == "merge", "thinks": thinking == "on"}


def _is_exact(where: str, spec: Mapping[str, Any], is_chat: bool, has_classes: bool) -> bool:
    boundary = spec.get("boundary", "safe")
    if boundary not in ("safe", "exact"):
        raise TemplateError(f"{where}: boundary is {one_line(repr(boundary), 60)}, expected safe or exact")
    if boundary == "exact" and (is_chat or not has_classes):
        raise TemplateError(f"{where}: `boundary: exact` is for labels behind plain prompts; drop it")
    return bool(boundary == "exact")


def _check_texts(where: str, name: str, spec: Any) -> None:
    """Refuse names and texts that UTF-8 or a terminal could not hold."""
    if not name.strip() or visible(name) != name:
        raise TemplateError(f"{where} has a name that cannot be shown; expected one without control characters")
    values = list(spec.values()) if isinstance(spec, dict) else [spec]
    for text in (one for value in values for one in (value if isinstance(value, list) else [value])):
        if not isinstance(text, str):
            continue
        if len(text) > MOST_CHARACTERS or text.count("{") > MOST_FIELDS:
            raise TemplateError(
                f"{where} has a text of {len(text):,} characters and {text.count('{'):,} braces, expected at most "
                f"{MOST_CHARACTERS:,} and {MOST_FIELDS:,}"
            )
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise TemplateError(f"{where} has a text with a lone surrogate, expected text that UTF-8 can hold")


def _check_fields(where: str, pattern: str) -> None:
    for match in _FIELD.finditer(pattern):
        if match.group() in "{}" or (match.group(1) is not None and not match.group(1).isidentifier()):
            raise TemplateError(
                f"{where}: '{match.group()}' is not a field; write {{name}}, or {{{{ and }}}} for literal braces"
            )


def _labels(where: str, spec: Mapping[str, Any], class_names: Sequence[str]) -> list[str]:
    labels = spec.get("labels")
    if not isinstance(labels, list) or not all(isinstance(x, str) for x in labels):
        hint = ""
        if isinstance(labels, list) and any(isinstance(x, bool) for x in labels):
            hint = " (YAML reads a bare yes, no, on or off as true or false: put it in quotes)"
        raise TemplateError(
            f"{where} has no list of label texts, but {one_line(repr(labels), 80)}; expected one text per class: "
            f"{list(class_names)}{hint}"
        )
    if len(labels) != len(class_names):
        raise TemplateError(f"{where} has {len(labels)} labels, expected {len(class_names)}: {list(class_names)}")
    if any(not label for label in labels):
        raise TemplateError(f"{where} has an empty label; an empty continuation has no probability")
    if len(set(labels)) != len(labels):
        raise TemplateError(f"{where} gives two classes the same label text: {labels}; expected different ones")
    if alike := first_alike(labels, without_white_space_around):
        raise TemplateError(
            f"{where} gives two classes labels that differ in white space or normal form alone: {alike[0]!r} and "
            f"{alike[1]!r}; a written answer would always be the first of them: expected different words"
        )
    return labels


def _chat(where: str, spec: Mapping[str, Any]) -> Chat | None:
    render, place = spec.get("render", "plain"), spec.get("demonstrations", Chat.TURNS.value)
    if render not in ("plain", "chat"):
        raise TemplateError(f"{where}: render is '{render}', expected plain or chat")
    if place not in [chat.value for chat in Chat]:
        raise TemplateError(f"{where}: demonstrations is '{place}', expected turns or message")
    if render == "plain" and "demonstrations" in spec:
        raise TemplateError(f"{where}: demonstrations needs `render: chat`; set it, or drop demonstrations")
    return Chat(place) if render == "chat" else None
