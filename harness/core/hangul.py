"""Hangul as sequences of letters (NFD, as some systems store it) and as syllables (NFC)."""

from __future__ import annotations

import re
import unicodedata

_LETTERS = re.compile("[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]")


def compose_hangul(text: str) -> str:
    """The text with its Hangul as syllables, if some of it is decomposed; other texts stay as they are.

    Tokenizers know syllables; letters by themselves give other tokens, and `clean_text` would delete them.
    """
    return unicodedata.normalize("NFC", text) if _LETTERS.search(text) else text
