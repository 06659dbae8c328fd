"""KorQuAD's official metrics: exact match and F1 over characters, versions 1 and 2.

The rules are those of the evaluation scripts at korquad.github.io (versions 1.0 and 2.1), which
derive from SQuAD 1.1's. Values are 0 to 1 where the scripts print percent.
"""

from __future__ import annotations

import string
import warnings
from collections import Counter

from bs4 import BeautifulSoup
from bs4.exceptions import ParserRejectedMarkup

from tasks.korquad_text import UnreadableHtmlError, check_ends

HTML_PARSER = "html.parser"
"""The parser of version 2's tag removal. The script names none, and then the result depends on
which parsers are installed; this one is part of Python."""
_TO_SPACES = str.maketrans(dict.fromkeys("'\"《》<>〈〉()‘’", " "))
_DELETED = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Version 1: quotes and brackets to spaces, lower case, no ASCII punctuation, single spaces.

    The order is the script's and matters: a final sigma is lowered by what stands beside it.
    """
    return " ".join(text.translate(_TO_SPACES).lower().translate(_DELETED).split())


def normalise_2(text: str) -> str:
    """Version 2: tags removed, then as in version 1, then no white space at all."""
    return without_space(normalise(strip_tags(text)))


def strip_tags(html: str) -> str:
    """The text of an HTML fragment, as BeautifulSoup's `get_text()` gives it.

    What the parser rejects, such as `<![`, stays as it is: generated text may hold anything.
    """
    if "<" not in html and "&" not in html:
        return html
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the text looks like an address or like XML
        try:
            check_ends(html)
            return BeautifulSoup(html, HTML_PARSER).get_text()
        except (ParserRejectedMarkup, UnreadableHtmlError):
            return html


def without_space(text: str) -> str:
    """The text without any white space."""
    return "".join(text.split())


def exact_match(prediction: str, gold: str) -> float:
    """Version 1: 1 when the normalised texts are equal, spacing included, else 0."""
    return float(normalise(prediction) == normalise(gold))


def f1_score(prediction: str, gold: str) -> float:
    """Version 1: F1 of the normalised texts as bags of characters, spaces not counted.

    Nothing in common is 0, also when both are empty.
    """
    return _bag_f1(without_space(normalise(prediction)), without_space(normalise(gold)))


def exact_match_2(prediction: str, gold: str) -> float:
    """Version 2: 1 when the normalised texts are equal, whatever their tags and spacing, else 0."""
    return float(normalise_2(prediction) == normalise_2(gold))


def f1_score_2(prediction: str, gold: str) -> float:
    """Version 2: F1 of the normalised texts as bags of characters."""
    return _bag_f1(normalise_2(prediction), normalise_2(gold))


def _bag_f1(prediction: str, gold: str) -> float:
    common = (Counter(prediction) & Counter(gold)).total()
    if common == 0:
        return 0.0
    precision, recall = common / len(prediction), common / len(gold)
    return 2 * precision * recall / (precision + recall)
