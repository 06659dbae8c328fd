"""Special tokens that stand in the text of data: they are text there, and control tokens in templates only.

A tokenizer takes special tokens out of a text before all else, wherever they stand: a review that spells
`<|im_end|>` would end its turn. Such places in data are marked before templates are filled. A marked text
is tokenised by a copy of the tokenizer in which special tokens have other names, that nobody writes;
those of the template are renamed likewise, those of the data stay what they are: text.

Some tokenizers have control tokens that they do not call special, such as `<think>` of Qwen 3. These count where they
look like it: `<|...|>`, the tags of thinking blocks, and tags that the chat template writes. Other added tokens, such
as `<table>` or two blanks, are words that data may hold.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from harness.core.errors import DataError, TemplateError
from harness.core.task import Sample
from harness.prompts.chats import is_thinking_tag

MARK = "\uffff"
"""Stands before each special token in text of data; no character of any script."""
_NAMED = 5  # ids in a message
_NAME = "\U0010fff0{}\U0010fff1"
_BARRED, _BRACKETED = re.compile(r"<\|\S+\|>"), re.compile(r"[<\[]\S+[>\]]")


class Literals:
    """Marks special tokens in data, and tokenises texts that hold such marks.

    Args:
        tokenizer: a Hugging Face tokenizer.
        backend: of the `tokenizers` library; None for a slow tokenizer, which cannot tell texts apart.
    """

    def __init__(self, tokenizer: Any, backend: Any) -> None:
        self._tokenizer, self._backend = tokenizer, backend
        self.controls = _unspecial_controls(tokenizer, backend)
        """Control tokens that the tokenizer does not call special."""
        self.contents = (*_special_contents(tokenizer, backend), *self.controls)
        either = "|".join(map(re.escape, sorted(self.contents, key=lambda text: (-len(text), text))))
        self._any = re.compile(either) if either else None
        self._each = re.compile(f"(?={either})")
        self._unmarked = re.compile(f"(?<!{MARK})(?:{either})") if either else None

    def found_in(self, sample: Sample) -> list[str]:
        """Special tokens that a sample's texts spell, each once."""
        if not self._are_in(sample):
            return []
        texts = _texts(sample)
        return [content for content in self.contents if any(content in text for text in texts)]

    def marked(self, sample: Sample) -> Sample:
        """The sample with its special tokens marked as text; itself where it has none."""
        if not self._are_in(sample):
            return sample
        mark = self._each.sub
        fields = {name: mark(MARK, text) for name, text in sample.fields.items()}
        answers, choices = (tuple(mark(MARK, text) for text in row) for row in (sample.answers, sample.choices))
        return replace(sample, fields=fields, answers=answers, choices=choices)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of marked texts, without the tokens that are added by themselves.

        Raises:
            TemplateError: the tokenizer cannot take a special token as text.
        """
        if self._backend is None:
            raise TemplateError(self._refusal(texts[0]))
        own = [Counter[str]() for _ in texts]
        renamed = [plain(self._rename(text, counts)) for text, counts in zip(texts, own, strict=True)]
        encodings = self._copy.encode_batch_fast(renamed, add_special_tokens=False)
        result = []
        for text, encoding, counts in zip(texts, encodings, own, strict=True):
            ids = [self._known_ids.get(token, token) for token in encoding.ids]
            if Counter(self._special_ids[token] for token in ids if token in self._special_ids) != counts:
                raise TemplateError(self._refusal(text))
            result.append(ids)
        return result

    def _refusal(self, text: str) -> str:
        spelt = [repr(content) for content in self.contents if MARK + content in text]
        return f"the tokenizer cannot take {' and '.join(spelt)} in the data's text as text"

    def _are_in(self, sample: Sample) -> bool:
        """Runs for every sample of every prompt, nearly always in vain."""
        if self._any is None:
            return False
        search = self._any.search
        for text in sample.fields.values():
            if search(text):
                return True
        return any(map(search, sample.answers)) or any(map(search, sample.choices))

    def _rename(self, text: str, counts: Counter[str]) -> str:
        def name(match: re.Match[str]) -> str:
            content = match.group()
            if content in self._special_ids.values():
                counts[content] += 1
            return self._names[content]

        return self._unmarked.sub(name, text) if self._unmarked is not None else text

    @cached_property
    def _names(self) -> dict[str, str]:
        return {content: _NAME.format(place) for place, content in enumerate(self.contents)}

    @cached_property
    def _special_ids(self) -> dict[int, str]:
        """Ids by which special tokens are known again; the one for unknown characters may stand for any text."""
        model = self._backend.model
        unknown = {getattr(self._tokenizer, "unk_token", None), getattr(model, "unk_token", None)}
        ids = {self._backend.token_to_id(content): content for content in self.contents if content not in unknown}
        ids.pop(getattr(model, "unk_id", None), None)
        return {token: content for token, content in ids.items() if token is not None}

    @cached_property
    def _copy(self) -> Any:
        """The tokenizer with special tokens of other names."""
        state = json.loads(self._backend.to_str())
        for token in state["added_tokens"]:
            token["content"] = self._names.get(token["content"], token["content"])
        state["post_processor"] = None
        return Tokenizer.from_str(json.dumps(state))

    @cached_property
    def _known_ids(self) -> dict[int, int]:
        """Ids of the copy's added tokens to those of the tokenizer."""
        added = self._backend.get_added_tokens_decoder()
        names = {token.content: self._names.get(token.content, token.content) for token in added.values()}
        return {self._copy.token_to_id(names[token.content]): index for index, token in added.items()}


def notes_on_literals(literals: Literals, samples: Sequence[Sample], what: str, model: str) -> list[str]:
    """Which samples spell special tokens of a model: one line, or none.

    Args:
        literals: of the model's tokenizer.
        samples: all that prompts may hold.
        what: they are called.
        model: its name.

    Raises:
        DataError: the tokenizer cannot take them as text.
    """
    spelling: dict[str, None] = {}
    taken: list[str] = []
    refused: list[str] = []
    for sample in samples:
        found = literals.found_in(sample)
        if found or any(MARK in text for text in _texts(sample)):
            spelling |= dict.fromkeys(found or [MARK])
            (taken if _is_text(literals, sample) else refused).append(sample.id)
    spelt = ", ".join(map(repr, spelling))
    if refused:
        raise DataError(
            f"{len(refused)} {what} spell {spelt} (ids {_shown(refused)}), which the tokenizer of '{model}' cannot "
            "take as text: they would act as control tokens; take these rows or these words out of the data"
        )
    if not taken:
        return []
    return [f"{len(taken)} {what} spell special tokens of '{model}' ({spelt}; ids {_shown(taken)}): taken as text"]


def plain(text: str) -> str:
    """A text without marks, as people read it."""
    return text.replace(MARK, "")


def _is_text(literals: Literals, sample: Sample) -> bool:
    if any(MARK in text for text in _texts(sample)):
        return False
    try:
        literals.encode([text for text in _texts(literals.marked(sample)) if MARK in text])
    except TemplateError:
        return False
    return True


def _shown(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more


def _texts(sample: Sample) -> tuple[str, ...]:
    return (*sample.fields.values(), *sample.answers, *sample.choices)


def _special_contents(tokenizer: Any, backend: Any) -> tuple[str, ...]:
    if backend is not None and backend.encode_special_tokens:
        return ()
    return tuple(str(token.content) for token in _added(tokenizer, backend) if token.special and token.content)


def _unspecial_controls(tokenizer: Any, backend: Any) -> tuple[str, ...]:
    written = str(getattr(tokenizer, "chat_template", None) or "")
    contents = [str(token.content) for token in _added(tokenizer, backend) if not token.special and token.content]
    return tuple(
        content
        for content in contents
        if _BARRED.fullmatch(content)
        or is_thinking_tag(content)
        or (_BRACKETED.fullmatch(content) is not None and content in written)
    )


def _added(tokenizer: Any, backend: Any) -> list[Any]:
    added = getattr(tokenizer, "added_tokens_decoder", {}) if backend is None else backend.get_added_tokens_decoder()
    return list(added.values())
