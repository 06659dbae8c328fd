"""Texts to token ids, whole or in segments.

The ids of a prompt are those of tokenising its whole text. Segments (prefix, demonstrations,
query) are tokenised once and concatenated only where that is proven to give the same ids:
the tokenizer must split its text before it merges, and must split at each boundary.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.errors import TemplateError

_SPLITTERS = {"ByteLevel", "Split", "Digits", "Punctuation", "Whitespace", "BertPreTokenizer"}
_LOCAL_NORMALIZERS = {"NFC"}
_UNSAFE = "\0"  # stands for the edge of a segment that is never joined
_REMEMBERED = 200_000  # segments kept in memory, about 100 MB


class PromptTokenizer:
    """Tokenises prompts, sharing the work over equal segments.

    Args:
        tokenizer: a Hugging Face tokenizer; a fast one allows segments.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        plain = self.whole("가", special=False)
        special = self.whole("가", special=True)
        start = _find(special, plain)
        self.bos: list[int] = special[:start] if start > 0 else []
        """What the tokenizer adds by itself at the start of a text."""
        self._pre_tokenizer, self._nfc = _splitter(self.backend)
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        self._greedy = tuple(str(t.content) for t in added if t.lstrip or t.rstrip or t.single_word)
        self._longest_greedy = max(map(len, self._greedy), default=0)
        self._segments: dict[str, list[int]] = {}
        self._tails: dict[str, str] = {}
        self._heads: dict[str, str] = {}
        self._boundaries: dict[tuple[str, str], bool] = {}

    @property
    def splits_first(self) -> bool:
        """Whether this tokenizer can be proven to split at a boundary at all."""
        return self._pre_tokenizer is not None

    def distrust_segments(self) -> None:
        """Tokenise everything whole from now on."""
        self._pre_tokenizer = None

    def whole(self, text: str, special: bool = False) -> list[int]:
        """Ids of one text by itself."""
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def whole_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, without the tokens that are added by itself."""
        if not texts:
            return []
        if self.backend is not None:
            encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
            return [encoding.ids for encoding in encodings]
        return [list(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def segment_ids(self, texts: Iterable[str]) -> dict[str, list[int]]:
        """Ids of segments, remembered: demonstrations come again and again."""
        if len(self._segments) > _REMEMBERED:
            for memory in (self._segments, self._tails, self._heads):
                memory.clear()
        missing = [text for text in dict.fromkeys(texts) if text not in self._segments]
        self._segments.update(zip(missing, self.whole_batch(missing), strict=True))
        return self._segments

    def joins(self, left: str, right: str) -> bool:
        """Whether ids(left + right) = ids(left) + ids(right) is certain.

        True when the tokenizer splits its text at the boundary; merges never cross a split.
        The split depends on the neighbouring pieces only, so two pieces of each side decide.
        """
        if self._pre_tokenizer is None:
            return False
        if not left or not right:
            return True
        tail = self._tails.get(left)
        if tail is None:
            tail = self._tails[left] = self._last_pieces(left)
        head = self._heads.get(right)
        if head is None:
            head = self._heads[right] = self._first_pieces(right)
        if tail is _UNSAFE or head is _UNSAFE:
            return False
        known = self._boundaries.get((tail, head))
        if known is None:
            known = self._boundaries[tail, head] = self._splits_at(tail, head)
        return known

    def _last_pieces(self, text: str) -> str:
        pieces = self._pre_tokenizer.pre_tokenize_str(text)
        start = pieces[-2][1][0] if len(pieces) > 2 else 0
        before = len(text[:start].rstrip()) - self._longest_greedy
        return _UNSAFE if self._holds_greedy_token(text[max(0, before) :]) else text[start:]

    def _first_pieces(self, text: str) -> str:
        pieces = self._pre_tokenizer.pre_tokenize_str(text)
        end = pieces[1][1][1] if len(pieces) > 2 else len(text)
        blank = len(text[end:]) - len(text[end:].lstrip())
        near = text[: end + blank + self._longest_greedy]
        return _UNSAFE if self._holds_greedy_token(near) else text[:end]

    def _holds_greedy_token(self, text: str) -> bool:
        """Whether an added token is in a text that looks at, or swallows, what stands around it."""
        return any(token in text for token in self._greedy)

    def _splits_at(self, left: str, right: str) -> bool:
        if self._nfc and unicodedata.normalize("NFC", left + right) != (
            unicodedata.normalize("NFC", left) + unicodedata.normalize("NFC", right)
        ):
            return False
        pieces = self._pre_tokenizer.pre_tokenize_str(left + right)
        if not any(start == len(left) for _, (start, _) in pieces):
            return False
        return self.whole(left + right) == self.whole(left) + self.whole(right)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of a chat, up to where the assistant answers; thinking is off where it can be.

        Raises:
            TemplateError: the tokenizer has no chat template, or its template refuses the messages.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise TemplateError("the model's tokenizer has no chat template; use templates with `render: plain`")
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        except Exception as error:
            reason = " ".join(str(error).split())
            raise TemplateError(f"the model's chat template refuses the messages: {reason}") from None
        return str(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated tokens, without special ones."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def decode_token(self, token: int) -> str:
        """The text of one token."""
        return str(self.tokenizer.decode([token]))


def _splitter(backend: Any) -> tuple[Any, bool]:
    """The backend's pre-tokenizer when merges stay inside its pieces, and whether NFC runs first."""
    if backend is None or backend.pre_tokenizer is None:
        return None, False
    state = json.loads(backend.to_str())
    normalizer, splitter = state.get("normalizer"), state["pre_tokenizer"]
    if normalizer is not None and normalizer.get("type") == "Sequence" and not normalizer["normalizers"]:
        normalizer = None
    if normalizer is not None and normalizer["type"] not in _LOCAL_NORMALIZERS:
        return None, False
    parts = splitter["pretokenizers"] if splitter["type"] == "Sequence" else [splitter]
    for part in parts:
        if part["type"] not in _SPLITTERS or part.get("add_prefix_space"):
            return None, False
    return backend.pre_tokenizer, normalizer is not None


def _find(sequence: list[int], part: list[int]) -> int:
    for start in range(len(sequence) - len(part) + 1):
        if sequence[start : start + len(part)] == part:
            return start
    return -1
