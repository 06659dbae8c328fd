"""What a fast tokenizer does to a text before its model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_SPLITTERS = {"ByteLevel", "Split", "Digits", "Punctuation", "Whitespace", "BertPreTokenizer"}
_LOCAL_NORMALIZERS = {"NFC"}
Step = dict[str, Any]
"""The state of a normalizer or pre-tokenizer that is no sequence."""


@dataclass(frozen=True)
class Pipeline:
    """What happens to a text before the model, where all of it is known to be local."""

    replacements: tuple[tuple[str, str], ...]
    """One character to the text that stands for it, in order."""
    start: str
    """What may be put before the text, and before what follows an added token, as the model sees it."""
    mark: str | None
    """The character that begins a piece by itself, where the text is cut before the model."""

    def apply(self, text: str) -> str:
        """The text as the model sees it, without what is put at a start."""
        for old, new in self.replacements:
            text = text.replace(old, new)
        return text


def steps_before(backend: Any) -> tuple[list[Step], list[Step]]:
    """The steps of the normalizer and those of the pre-tokenizer."""
    return _steps(_state(backend.normalizer), "normalizers"), _steps(_state(backend.pre_tokenizer), "pretokenizers")


def cuts_first(normalizers: Sequence[Step], pre_tokenizers: Sequence[Step]) -> bool:
    """Whether merges stay inside the pieces that the pre-tokenizer cuts by looking at neighbours."""
    if any(step["type"] not in _LOCAL_NORMALIZERS for step in normalizers):
        return False
    return all(step["type"] in _SPLITTERS and not step.get("add_prefix_space") for step in pre_tokenizers)


def read_pipeline(normalizers: Sequence[Step], pre_tokenizers: Sequence[Step]) -> Pipeline | None:
    """The steps before the model, or None if one of them is not known to be local."""

    def pattern(step: Step) -> str:
        return str(step["pattern"].get("String", ""))

    replacements: list[tuple[str, str]] = []
    start, mark = "", None
    for step in normalizers:
        if step["type"] == "Prepend":
            start = step["prepend"] + start
        elif step["type"] == "Replace" and len(pattern(step)) == 1 and step["content"]:
            replacements.append((pattern(step), step["content"]))
            start = start.replace(*replacements[-1])
        else:
            return None
    for step in pre_tokenizers:
        if step["type"] == "Metaspace":
            replacements.append((" ", step["replacement"]))
            start = start.replace(*replacements[-1])
            start = step["replacement"] + start if step["prepend_scheme"] != "never" else start
            mark = step["replacement"] if step["split"] else mark
        elif not (step["type"] == "Split" and _is_replaced(pattern(step), replacements)):
            return None
    return Pipeline(tuple(replacements), start, mark)


def _is_replaced(pattern: str, replacements: list[tuple[str, str]]) -> bool:
    """Whether a character cannot be found any more once the replacements are made."""
    places = [i for i, (old, _) in enumerate(replacements) if old == pattern]
    return bool(places) and all(pattern not in new for _, new in replacements[places[-1] :])


def _state(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


def _steps(state: Any, key: str) -> list[Step]:
    """The steps of a normalizer or pre-tokenizer, those of sequences within sequences included."""
    if state is None:
        return []
    if state["type"] != "Sequence":
        return [state]
    return [step for part in state[key] for step in _steps(part, key)]


def greedy_tokens(backend: Any) -> tuple[str, ...]:
    """Added tokens that look at, or swallow, what stands around them."""
    added = backend.get_added_tokens_decoder().values()
    return tuple(str(t.content) for t in added if t.lstrip or t.rstrip or t.single_word)


def holds(text: str, tokens: Iterable[str]) -> bool:
    """Whether one of the tokens is in a text."""
    return any(token in text for token in tokens)
