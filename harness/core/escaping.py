"""Text from data, names and files, made harmless where it is shown.

Knows what steers a terminal, a spreadsheet or the reader's eye; refuses to know where text comes from.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_STEERING = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029{_BIDI}\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
MOST_CHARACTERS = 600
"""Of an error's line."""


def visible(text: str, keep: str = "") -> str:
    r"""The text with control characters, bidirectional controls and lone surrogates as `\u001b`.

    The escapes are JSON's, so that escaped JSON still holds the same text.

    Args:
        text: from anywhere.
        keep: characters that stay, such as line ends.
    """
    return _STEERING.sub(lambda match: match[0] if match[0] in keep else f"\\u{ord(match[0]):04x}", text)


def one_line(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text as one line of bounded length, safe to show; its beginning and its end stay."""
    line = visible(" ".join(text.split()))
    if len(line) <= most:
        return line
    tail = most // 3
    return f"{line[: most - tail - 3]}...{line[-tail:]}"


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as CSV whose text cells no spreadsheet takes for formulas; numbers are as they are."""
    import pandas as pd

    safe = frame.rename(columns=lambda name: _csv_cell(str(name)))
    for place, kind in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            safe.isetitem(place, [_csv_cell(cell) for cell in frame.iloc[:, place]])
    text: str = safe.to_csv(index=False)
    return text


def _csv_cell(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    return f"'{visible(cell)}" if cell.startswith(_FORMULA) else visible(cell)
