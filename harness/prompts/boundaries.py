"""Where a tokenizer provably splits its text, so that ids of parts are ids of the whole.

Two proofs are known. `PieceBoundaries`: the pre-tokenizer cuts the text into pieces before the model
merges, and cuts at the boundary. `VocabularyBoundaries`, for tokenizers in the style of SentencePiece,
which merge over a whole text: every token that a merge can make is a string of the vocabulary, so
where no such string fits across the boundary, no merge crosses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from harness.prompts.pieces import PieceBoundaries
from harness.prompts.pipeline import cuts_first, read_pipeline, steps_before
from harness.prompts.vocabulary import VocabularyBoundaries, merges, takes_texts_as_they_are


class Boundaries(Protocol):
    """A proof that some boundaries are splits."""

    guarded: bool
    """Whether a text by itself has other ids than inside a longer one, and needs a guard."""
    whole_texts: bool
    """Whether the model merges over whole texts, not within pieces."""

    def joins(self, left: str, right: str) -> bool:
        """Whether the ids of left + right certainly are those of left, then those of right inside a text."""

    def guard(self, text: str) -> str:
        """A text that the given one may stand behind to get its ids inside a text; empty if none serves."""

    def first_split(self, text: str) -> int:
        """Where the first certain split inside a text is; 0 if none is near its start."""

    def last_split(self, text: str) -> int:
        """Where the last certain split inside a text is; 0 if none is near its end."""

    def forget(self) -> None:
        """Empty the memory."""


def find_boundaries(backend: Any, whole: Callable[[str], list[int]]) -> Boundaries | None:
    """The proof that serves a tokenizer; None if none is known.

    Args:
        backend: of the `tokenizers` library; None for a slow tokenizer.
        whole: a text to its ids.
    """
    if backend is None:
        return None
    normalizers, pre_tokenizers = steps_before(backend)
    if pre_tokenizers and cuts_first(normalizers, pre_tokenizers):
        return PieceBoundaries(backend, bool(normalizers), whole)
    pipeline = read_pipeline(normalizers, pre_tokenizers)
    if pipeline is None or not takes_texts_as_they_are(backend.model):
        return None
    if pipeline.mark is None and not merges(backend.model):
        return None
    return VocabularyBoundaries(backend, pipeline)
