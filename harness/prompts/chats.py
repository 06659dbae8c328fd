"""What chat templates do of their own accord: open a thinking block, write the date.

Labels and answers follow the header of the assistant's turn. A block that is opened there holds them as
thoughts. A date makes a prompt another one tomorrow, so it is that of the run's beginning.
"""

from __future__ import annotations

import json
import re
from datetime import datetime

from harness.core.errors import TemplateError

_TAG = re.compile(r"<\|channel\|>analysis|[<\[\u25c1](/?)\|?([\w:]*+)\|?[>\]\u25b7]", re.I)
_THINKS = re.compile(r"think|thought|reason", re.I)
"""In what stands within a tag behind its last colon; one pattern for both would take the square of a text's length."""
_CLOSING = re.compile(r"end|close", re.I)
_TIME = re.compile(r"""strftime_now\(\s*(?:format\s*=\s*)?(?:"([^"\\]*)"|'([^'\\]*)')\s*\)""")
_CALL = re.compile(r"strftime_now\s*\(")


def _tags(text: str) -> list[re.Match[str]]:
    """The tags of thinking blocks in a text."""
    return [tag for tag in _TAG.finditer(text) if _is_thinking(tag)]


def _is_thinking(tag: re.Match[str]) -> bool:
    return tag.group(2) is None or _THINKS.search(tag.group(2).rpartition(":")[2]) is not None


def open_thinking(header: str) -> str | None:
    """The tag of a thinking block that a header opens and does not close; None where there is none.

    Args:
        header: what a chat template writes after the last message.
    """
    tags = _tags(header)
    if not tags or tags[-1].group(1) or _CLOSING.search(tags[-1].group(2) or ""):
        return None
    return tags[-1].group()


def is_thinking_tag(text: str) -> bool:
    """Whether a text opens or closes a thinking block, and is nothing else."""
    found = _TAG.fullmatch(text)
    return found is not None and _is_thinking(found)


def begins_reasoning(text: str) -> bool:
    """Whether what a model wrote begins with the opening of a thinking block."""
    found = _TAG.match(text.lstrip())
    return found is not None and open_thinking(found.group()) is not None


def without_reasoning(text: str, header: str) -> str:
    """What a model wrote after its reasoning; nothing where the reasoning did not end.

    Args:
        text: what it wrote.
        header: what stands before it and behind the last message; it may have begun the reasoning.
    """
    ends = [tag.end() for tag in _tags(text) if tag.group(1) or _CLOSING.search(tag.group(2) or "")]
    if ends:
        return text[ends[-1] :].lstrip()
    return "" if open_thinking(header) or open_thinking(text) else text


def writes_time(chat_template: str) -> bool:
    """Whether a chat template asks for the time."""
    return _CALL.search(chat_template) is not None


def at_time(chat_template: str, moment: str) -> str:
    """A chat template with one time in place of the present one.

    Args:
        chat_template: Jinja.
        moment: ISO 8601.

    Raises:
        TemplateError: it asks for a time in a way that cannot be replaced.
    """
    then = datetime.fromisoformat(moment)

    def text(match: re.Match[str]) -> str:
        return json.dumps(then.strftime(match.group(1) or match.group(2) or ""), ensure_ascii=False)

    frozen = _TIME.sub(text, chat_template)
    if writes_time(frozen):
        raise TemplateError(
            "the model's chat template writes the time in a format that is no plain text, so that prompts would change "
            "from day to day; use templates with `render: plain`, or a chat template without strftime_now"
        )
    return frozen
