"""Texts to token ids, whole or in segments.

The ids of a prompt are those of tokenising its whole text. Segments (prefix, demonstrations,
query) are tokenised once and concatenated only where that is proven to give the same ids:
the tokenizer must split its text at each boundary (see `boundaries`). A chat is cut before the
tokens of its turns, which every tokenizer takes out of the text before all else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from harness.core.errors import TemplateError
from harness.core.time_limit import time_limit
from harness.prompts.boundaries import find_boundaries
from harness.prompts.chats import at_time, open_thinking, writes_time
from harness.prompts.literals import MARK, Literals, plain

_REMEMBERED = 200_000  # segments kept in memory, about 100 MB
MOST_TEMPLATE_SECONDS = 10.0
"""For one chat: a chat template is a program that came with the model."""


class PromptTokenizer:
    """Tokenises prompts, sharing the work over equal segments.

    Args:
        tokenizer: a Hugging Face tokenizer; a fast one allows segments.
        chat_time: what chat templates take for the present, ISO 8601; None takes it from the clock, once.
    """

    def __init__(self, tokenizer: Any, chat_time: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.chat_time = chat_time or datetime.now().isoformat(timespec="seconds")
        self.backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self.literals = Literals(tokenizer, self.backend)
        """Special tokens in texts of data: they are text."""
        alone = self.whole("가", special=False)
        special = self.whole("가", special=True)
        start = _find(special, alone)
        self.bos: list[int] = special[:start] if start > 0 else []
        """What the tokenizer adds by itself at the start of a text."""
        self._boundaries = find_boundaries(self.backend, self.whole)
        self._segments: dict[str, list[int]] = {}
        self._inner: dict[str, list[int]] = {}
        self._guard_lengths: dict[str, int] = {}
        self._turns: re.Pattern[str] | None = None
        self._timed: tuple[str, str] | None = None
        self._joins_turns = self.backend is not None

    @property
    def can_join(self) -> bool:
        """Whether this tokenizer can be proven to split at a boundary at all."""
        return self._boundaries is not None

    @property
    def marks_start(self) -> bool:
        """Whether a text may have other ids inside a longer one than by itself."""
        return self._boundaries is not None and self._boundaries.guarded

    @property
    def merges_whole_texts(self) -> bool:
        """Whether what stands far before a boundary may bear on it."""
        return self._boundaries is not None and self._boundaries.whole_texts

    def distrust_segments(self) -> None:
        """Tokenise everything whole from now on."""
        self._boundaries, self._joins_turns = None, False

    def whole(self, text: str, special: bool = False) -> list[int]:
        """Ids of one text by itself."""
        if MARK in text:
            return self.literals.encode([text])[0]
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def whole_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, without the tokens that are added by itself."""
        if not texts:
            return []
        marked = [place for place, text in enumerate(texts) if MARK in text]
        if marked:
            literal = dict(zip(marked, self.literals.encode([texts[place] for place in marked]), strict=True))
            others = iter(self.whole_batch([text for place, text in enumerate(texts) if place not in literal]))
            return [literal[place] if place in literal else next(others) for place in range(len(texts))]
        if self.backend is not None:
            encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
            return [encoding.ids for encoding in encodings]
        return [list(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def inner_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids that texts have inside a longer one, behind a place where it splits; without one, as `whole_batch`."""
        if self._boundaries is None or not self._boundaries.guarded:
            return self.whole_batch(texts)
        guards = [self._boundaries.guard(plain(text)) for text in texts]
        for guard in set(guards) - self._guard_lengths.keys():
            self._guard_lengths[guard] = len(self.whole(guard))
        batch = self.whole_batch([guard + text for guard, text in zip(guards, texts, strict=True)])
        return [ids[self._guard_lengths[guard] :] for guard, ids in zip(guards, batch, strict=True)]

    def segment_ids(self, texts: Iterable[str], inner: bool = False) -> dict[str, list[int]]:
        """Ids of segments, remembered: demonstrations come again and again.

        Args:
            texts: the segments.
            inner: as they stand inside a text, else at its start.
        """
        if len(self._segments) + len(self._inner) > _REMEMBERED:
            self._segments, self._inner = {}, {}  # callers may still hold the old ones
            if self._boundaries is not None:
                self._boundaries.forget()
        known = self._inner if inner and self.marks_start else self._segments
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if not missing:
            return known
        known.update(zip(missing, self.inner_batch(missing) if inner else self.whole_batch(missing), strict=True))
        return known

    def joins(self, left: str, right: str) -> bool:
        """Whether the ids of left + right certainly are those of left, then the inner ones of right."""
        if MARK in left or MARK in right:
            return False
        return self._boundaries is not None and self._boundaries.joins(left, right)

    def first_split(self, text: str) -> int:
        """Where the first split inside a text is that is certain and near its start; 0 if there is none."""
        return 0 if self._boundaries is None or MARK in text else self._boundaries.first_split(text)

    def last_split(self, text: str) -> int:
        """Where the last split inside a text is that is certain and near its end; 0 if there is none."""
        return 0 if self._boundaries is None or MARK in text else self._boundaries.last_split(text)

    def turns(self, text: str) -> tuple[str, ...] | None:
        """A chat cut before the tokens of its turns: ids of the parts are those of the text; None if not known."""
        if not self._joins_turns or self.backend.encode_special_tokens or MARK in text:
            return None
        if self._turns is None:
            separators = separating_tokens(self.backend, text)
            if not separators:
                return None
            self._turns = re.compile(f"(?={'|'.join(map(re.escape, separators))})")
        return tuple(part for part in self._turns.split(text) if part)

    @cached_property
    def knows_system(self) -> bool:
        """Whether the chat template writes system messages."""
        try:
            asked = [{"role": "system", "content": "가나다"}, {"role": "user", "content": "라마바"}]
            return "가나다" in self._chat(asked, thinks=False)
        except TemplateError:
            return False

    @cached_property
    def can_think(self) -> bool:
        """Whether the chat template has a switch for thinking."""
        asked = [{"role": "user", "content": "라마바"}]
        return self._chat(asked, thinks=True) != self._chat(asked, thinks=False)

    def chat(self, messages: Sequence[Mapping[str, str]], thinks: bool = False) -> str:
        """The text of a chat, up to where the assistant answers; thinking is off where it can be, unless asked for.

        Raises:
            TemplateError: the tokenizer has no chat template; or its template refuses the messages, opens a
                thinking block before the answer, or writes a time that cannot be kept.
        """
        text = self._chat(messages, thinks)
        _, asked, header = text.rpartition(messages[-1]["content"].strip())
        thinking = open_thinking(header) if asked and not thinks else None
        if thinking is not None:
            raise TemplateError(
                f"the model's chat template opens a thinking block ({thinking}) before the answer, although thinking "
                "is off: labels would be scored and answers written inside it; use templates with `render: plain`, or "
                "a chat template that closes the block"
            )
        return text

    def _chat(self, messages: Sequence[Mapping[str, str]], thinks: bool) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            raise TemplateError("the model's tokenizer has no chat template; use templates with `render: plain`")
        timed = {"chat_template": self._template_at(self.chat_time)} if self.writes_time else {}
        try:
            with time_limit(MOST_TEMPLATE_SECONDS):
                text = self.tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=thinks, **timed
                )
        except Exception as error:
            reason = " ".join(str(error).split())
            raise TemplateError(
                f"the model's chat template refuses the messages: {reason}; mend it in the model's folder, "
                "or use templates without render: chat"
            ) from None
        return str(text)

    @cached_property
    def writes_time(self) -> bool:
        """Whether chats hold the time, `chat_time`."""
        return bool(getattr(self.tokenizer, "chat_template", None)) and writes_time(self._template)

    @property
    def _template(self) -> str:
        return str(self.tokenizer.get_chat_template())

    def _template_at(self, moment: str) -> str:
        if self._timed is None or self._timed[0] != moment:
            self._timed = (moment, at_time(self._template, moment))
        return self._timed[1]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated tokens, without special ones."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def decode_token(self, token: int) -> str:
        """The text of one token."""
        return str(self.tokenizer.decode([token]))


def separating_tokens(backend: Any, text: str) -> list[str]:
    """Added tokens in a text that are found wherever they stand, so that texts can be cut before each.

    Such tokens are taken out before the text is normalised, and what stands between two is tokenised by
    itself. The first and longest token is taken; one counts if no other may begin before it and reach
    into it, or hold it.
    """
    added = [token for token in backend.get_added_tokens_decoder().values() if not token.normalized and token.content]
    contents = [str(token.content) for token in added]
    found = []
    for token, content in zip(added, contents, strict=True):
        if token.lstrip or token.single_word or content not in text or content[0].isspace():
            continue
        beginnings = tuple(content[:n] for n in range(1, len(content)))
        if any(other[1:].endswith(beginnings) or (content in other and content != other) for other in contents):
            continue
        found.append(content)
    return found


def _find(sequence: list[int], part: list[int]) -> int:
    for start in range(len(sequence) - len(part) + 1):
        if sequence[start : start + len(part)] == part:
            return start
    return -1
