"""Texts that give an answer away: such as a column with the label's name beside one with its code."""

from __future__ import annotations

from collections.abc import Sequence

MOST_TEXTS = 4
"""Different texts of a field, for each class, that can be its names or those of its parts."""
LEAST_EACH = 4
"""Rows for each of them, on average, from which on it is no chance that all have one class."""
SAME = 0.9
"""Share of rows whose text is the answer from which on the field is another column of answers."""


def names_classes(texts: Sequence[str], golds: Sequence[str]) -> bool:
    """Whether few texts come again and again, each with one class alone.

    Args:
        texts: of a field, one for each row.
        golds: the rows' classes.
    """
    known, n_classes = dict(zip(texts, golds, strict=True)), len(set(golds))
    if not 2 <= n_classes <= len(known) <= MOST_TEXTS * n_classes or len(texts) < LEAST_EACH * len(known):
        return False
    return all(known[text] == gold for text, gold in zip(texts, golds, strict=True))


def is_answer(texts: Sequence[str], golds: Sequence[str]) -> bool:
    """Whether nearly all texts are the right answers themselves.

    Args:
        texts: of a field, one for each row.
        golds: the rows' right answers.
    """
    same = sum(text.strip() == gold.strip() for text, gold in zip(texts, golds, strict=True))
    return bool(texts) and same >= SAME * len(texts)
