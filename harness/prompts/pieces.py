"""Boundaries of tokenizers that cut their text into pieces before they merge."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

from harness.prompts.pipeline import greedy_tokens, holds

_UNSAFE = "\0"  # stands for the edge of a segment that is never joined


class PieceBoundaries:
    """Boundaries of tokenizers that cut before they merge, such as byte-level ones.

    Args:
        backend: its pre-tokenizer cuts by neighbouring characters only.
        composes: whether the text is brought to NFC first.
        whole: a text to its ids.
    """

    guarded = False
    whole_texts = False

    def __init__(self, backend: Any, composes: bool, whole: Callable[[str], list[int]]) -> None:
        self._pre_tokenizer, self._composes, self._whole = backend.pre_tokenizer, composes, whole
        self._greedy = greedy_tokens(backend)
        self._longest_greedy = max(map(len, self._greedy), default=0)
        self._tails: dict[str, str] = {}
        self._heads: dict[str, str] = {}
        self._known: dict[tuple[str, str], bool] = {}

    def guard(self, text: str) -> str:
        """None is needed: ids do not depend on where a piece stands."""
        return ""

    def first_split(self, text: str) -> int:
        """Not looked for: nearly every segment joins."""
        return 0

    def last_split(self, text: str) -> int:
        """Not looked for: nearly every label joins."""
        return 0

    def forget(self) -> None:
        """Empty the memory of segments."""
        self._tails.clear()
        self._heads.clear()

    def joins(self, left: str, right: str) -> bool:
        """True when the tokenizer splits its text at the boundary; merges never cross a split.

        The split depends on the neighbouring pieces only, so two pieces of each side decide.
        """
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
        known = self._known.get((tail, head))
        if known is None:
            known = self._known[tail, head] = self._splits_at(tail, head)
        return known

    def _last_pieces(self, text: str) -> str:
        pieces = self._pre_tokenizer.pre_tokenize_str(text)
        start = pieces[-2][1][0] if len(pieces) > 2 else 0
        before = len(text[:start].rstrip()) - self._longest_greedy
        return _UNSAFE if holds(text[max(0, before) :], self._greedy) else text[start:]

    def _first_pieces(self, text: str) -> str:
        pieces = self._pre_tokenizer.pre_tokenize_str(text)
        end = pieces[1][1][1] if len(pieces) > 2 else len(text)
        blank = len(text[end:]) - len(text[end:].lstrip())
        near = text[: end + blank + self._longest_greedy]
        return _UNSAFE if holds(near, self._greedy) else text[:end]

    def _splits_at(self, left: str, right: str) -> bool:
        if self._composes and unicodedata.normalize("NFC", left + right) != (
            unicodedata.normalize("NFC", left) + unicodedata.normalize("NFC", right)
        ):
            return False
        pieces = self._pre_tokenizer.pre_tokenize_str(left + right)
        if not any(start == len(left) for _, (start, _) in pieces):
            return False
        return self._whole(left + right) == self._whole(left) + self._whole(right)
