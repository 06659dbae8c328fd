"""Boundaries of tokenizers that merge over a whole text, by the strings of their vocabulary."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cached_property
from typing import Any

import numpy as np

from harness.prompts.pipeline import Pipeline, greedy_tokens, holds

_GUARDS = ("\n", "가", "1", ":")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_REMEMBERED = 20_000  # edges of segments
_NEAR = 40  # characters in which a split is looked for


class VocabularyBoundaries:
    """Boundaries of tokenizers that merge over the whole text (Llama 2, Mistral, Gemma).

    Some put a mark at the start of a text. What a segment is inside a text is then read off behind a guard,
    a text with a provable boundary to the segment.

    Args:
        backend: a BPE over characters, or one that cuts at white space.
        pipeline: what comes before its model.
    """

    whole_texts = True

    def __init__(self, backend: Any, pipeline: Pipeline) -> None:
        self._backend, self._pipeline = backend, pipeline
        self.guarded = bool(pipeline.start)
        added = [str(token.content) for token in backend.get_added_tokens_decoder().values()]
        normalize = backend.normalizer.normalize_str if backend.normalizer is not None else str
        seen = {form for text in added for form in (text, pipeline.apply(text), normalize(text))}
        self._added = _Strings(seen, pipeline.start)
        self._added_endings: dict[str, list[str]] = {}
        for text in filter(None, seen):
            self._added_endings.setdefault(text[-1], []).append(text)
        self._greedy = greedy_tokens(backend)
        self._longest_greedy = max(map(len, self._greedy), default=0)
        self._usable = [text for text in _GUARDS if self._is_safe_end(text)]
        self._ends: dict[str, bool] = {}
        self._guards: dict[str, str] = {}
        self._first_splits: dict[str, int] = {}
        self._known: dict[tuple[str, str], bool] = {}

    @cached_property
    def _vocabulary(self) -> _Strings | None:
        """What a merge may make; None where the strings of the vocabulary do not tell."""
        return _mergeable(self._backend, self._pipeline.start)

    @cached_property
    def _reach(self) -> int:
        """Characters on each side of a boundary that decide about it."""
        vocabulary = self._vocabulary
        return max(self._added.longest, vocabulary.longest if vocabulary else 1)

    def forget(self) -> None:
        """Empty the memory of segments."""
        for memory in (self._ends, self._guards, self._first_splits, self._known):
            memory.clear()

    def guard(self, text: str) -> str:
        """The first of a few texts that provably splits from the given one; none where none is needed."""
        known = self._guards.get(text)
        if known is None:
            if len(self._guards) > _REMEMBERED:
                self._guards.clear()
            known = ""
            if self.guarded and text and self._is_safe_start(text):
                known = next((guard for guard in self._usable if self._splits_at(guard, text)), "")
            self._guards[text] = known
        return known

    def joins(self, left: str, right: str) -> bool:
        """True when no added token and no token that a merge can make fits across the boundary.

        A string that reaches beyond a short segment counts as one that fits.
        """
        if not left or not right or not self._starts(right):
            return False
        safe = self._ends.get(left)
        if safe is None:
            if len(self._ends) > _REMEMBERED:
                self._ends.clear()
            safe = self._ends[left] = self._is_safe_end(left)
        return safe and self._splits_at(left, right)

    def first_split(self, text: str) -> int:
        """The first place where a text joins within itself."""
        known = self._first_splits.get(text)
        if known is None:
            if len(self._first_splits) > _REMEMBERED:
                self._first_splits.clear()
            known = self._first_splits[text] = self._split_among(text, range(1, min(len(text), _NEAR)))
        return known

    def last_split(self, text: str) -> int:
        """The last place where a text joins within itself."""
        return self._split_among(text, range(len(text) - 1, max(0, len(text) - _NEAR), -1))

    def _split_among(self, text: str, places: range) -> int:
        for place in places:
            before, after = text[:place], text[place:]
            if self._splits_at(before, after) and self.joins(before, after):
                return place
        return 0

    def _starts(self, text: str) -> bool:
        """Whether a text may stand behind a boundary, and its ids there can be had."""
        return bool(self.guard(text)) if self.guarded else self._is_safe_start(text)

    def _is_safe_start(self, text: str) -> bool:
        if not self._greedy:
            return True
        blank = len(text) - len(text.lstrip())
        return not holds(text[: blank + self._longest_greedy], self._greedy)

    def _is_safe_end(self, text: str) -> bool:
        if self._greedy and holds(text[max(0, len(text.rstrip()) - self._longest_greedy) :], self._greedy):
            return False
        if not self.guarded:
            return True
        # What follows an added token is a start.
        for form in (text, self._pipeline.apply(text[-self._reach :])):
            if any(form.endswith(token) or token.endswith(form) for token in self._added_endings.get(form[-1], ())):
                return False
        return True

    def _splits_at(self, left: str, right: str) -> bool:
        key = (left[-self._reach :], right[: self._reach])
        known = self._known.get(key)
        if known is None:
            if len(self._known) > _REMEMBERED:
                self._known.clear()
            known = self._known[key] = self._is_split(*key)
        return known

    def _is_split(self, left: str, right: str) -> bool:
        if self._added.may_cross(left, right):
            return False
        left, right = self._pipeline.apply(left), self._pipeline.apply(right)
        if self._added.may_cross(left, right):
            return False
        if self._pipeline.mark is not None and right[0] == self._pipeline.mark:
            return True
        vocabulary = self._vocabulary
        if vocabulary is None or vocabulary.may_cross(left, right):
            return False
        return vocabulary.complete or left[-1] in vocabulary.characters or right[0] in vocabulary.characters


class _Strings:
    """Strings that may stand across a boundary.

    Args:
        strings: of the vocabulary, or added tokens.
        start: what is put before a text, and before what follows an added token.
        complete: whether every character has ids of its own; unknown neighbours may become one token.
    """

    def __init__(self, strings: Collection[str], start: str, complete: bool = True) -> None:
        found = {text for text in strings if text}
        # Where the text's own start holds the first characters of a string, the rest of it fits.
        found |= {text[n:] for n in range(1, len(start) + 1) for text in found if text.startswith(start[-n:])} - {""}
        self._strings = list(found)
        self.longest = max(map(len, self._strings), default=1)
        self.complete = complete
        self.characters = {text for text in strings if len(text) == 1}
        self._cuts: dict[str, list[tuple[str, str]]] = {}

    @cached_property
    def _pairs(self) -> set[str]:
        """Neighbours within the strings, and around the NUL between two of them."""
        codes = np.frombuffer("\0".join(self._strings).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
        found = np.unique(codes[:-1] << np.uint64(32) | codes[1:])
        return {chr(pair >> 32) + chr(pair & 0xFFFFFFFF) for pair in found.tolist()}

    def may_cross(self, left: str, right: str) -> bool:
        """Whether one of the strings fits across the boundary of two texts that are not empty."""
        pair = left[-1] + right[0]
        if pair not in self._pairs:
            return False
        if pair not in self._cuts:
            self._cuts[pair] = [
                (text[: i + 1], text[i + 1 :])
                for text in self._strings
                if pair in text
                for i in range(len(text) - 1)
                if text.startswith(pair, i)
            ]
        return any(
            (left.endswith(before) or before.endswith(left)) and (right.startswith(after) or after.startswith(right))
            for before, after in self._cuts[pair]
        )


def _mergeable(backend: Any, start: str) -> _Strings | None:
    """The vocabulary, if each merge makes one of its strings out of characters of the text."""
    model = backend.model
    if not merges(model):
        return None
    vocabulary = backend.get_vocab(with_added_tokens=False)
    complete = bool(model.byte_fallback) and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    unknown = model.unk_token
    if not complete and unknown not in vocabulary:
        return None  # unknown characters vanish, and their neighbours may merge
    atoms = [_BYTE.pattern, *([re.escape(unknown)] if unknown else ())]
    within = re.compile("|".join(f"[^\0](?:{atom})|(?:{atom})[^\0]" for atom in atoms))
    if within.search("\0".join(vocabulary)):
        return None  # bytes or unknown characters merge
    return _Strings(vocabulary, start, complete)


def merges(model: Any) -> bool:
    """Whether a model merges neighbours by rank.

    One that takes the best of all segmentations (Unigram) tells equal scores apart by how sums round, which
    depends on what stands before.
    """
    return type(model).__name__ == "BPE"


def takes_texts_as_they_are(model: Any) -> bool:
    """Whether a model adds nothing to its texts, and cuts them the same way each time."""
    if type(model).__name__ == "Unigram":
        return not model.alpha
    return merges(model) and not (model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix)
