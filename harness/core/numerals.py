"""Numbers in texts, by their value."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

_DIGITS = r"(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)"
# A hyphen behind a digit or a letter parts two numbers, as in 10-20 and 2024-05.
_NUMBER = re.compile(rf"(?:(?<![\w.,])[-+\u2212])?{_DIGITS}(?:\s?/\s?{_DIGITS})?")


def numbers_in(text: str) -> list[Fraction]:
    """The numbers of a text in their order: 1,000 is 1000.0, .5 is 1/2."""
    found = (_value(match.group()) for match in _NUMBER.finditer(text))
    return [number for number in found if number is not None]


def number_of(text: str) -> Fraction | None:
    """The number that a text is, whatever white space stands around it; None where it is more or less than one."""
    return _value(text.strip()) if _NUMBER.fullmatch(text.strip()) else None


def _value(text: str) -> Fraction | None:
    above, _, below = text.replace(",", "").replace("\u2212", "-").partition("/")
    try:
        return Fraction(Decimal(above.strip())) / Fraction(Decimal(below.strip() or "1"))
    except (InvalidOperation, ZeroDivisionError):
        return None
