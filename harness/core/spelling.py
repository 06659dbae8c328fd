"""Texts that are the same but for how they are written: white space, case, normal form, or the form of a number."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable


def without_white_space_around(text: str) -> str:
    """What people read of a text: composed (NFC), one blank for each white space within, none around."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def spelt_alike(text: str) -> str:
    """Equal for `Good`, `good ` and `GOOD`, for `1`, `1.0` and `01`."""
    plain = without_white_space_around(text).casefold()
    try:
        return repr(float(plain)) if plain.isascii() else plain
    except ValueError:
        return plain


def first_alike(texts: Iterable[str], form: Callable[[str], str]) -> tuple[str, str] | None:
    """The first two different texts of one form; None where each has its own.

    Args:
        texts: each once.
        form: from a text to what counts of it.
    """
    seen: dict[str, str] = {}
    for text in texts:
        before = seen.setdefault(form(text), text)
        if before != text:
            return before, text
    return None
