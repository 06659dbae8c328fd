"""What a response holds, whatever the server put into it: a body of bounded size, JSON, seconds to wait.

Knows bytes and headers; refuses to know requests and what answers mean.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

MOST_BYTES = 2**26
"""Of an answer: the log-probabilities of 262,144 tokens take half of it."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


class BodyError(ValueError):
    """A body is too large, or no JSON; says which."""


async def read_body(response: aiohttp.ClientResponse) -> str:
    """All of a response's text; what is no UTF-8 in it is replaced.

    Raises:
        BodyError: it is larger than any answer, unpacked.
    """
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > MOST_BYTES:
            response.close()
            raise BodyError(f"the answer has more than {MOST_BYTES:,} bytes")
    return b"".join(pieces).decode("utf-8", "replace")


def parsed(text: str) -> Any:
    """The JSON of a body; halves of characters in it become question marks.

    Raises:
        BodyError: it is no JSON, or nested too deep for one.
    """
    try:
        found = json.loads(text)
        if not _HALF.search(text):
            return found
        # Whole characters may be written as two halves: what UTF-8 cannot hold are single ones.
        return json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise BodyError("expected JSON") from None


def reason_of(text: str) -> str:
    """The message in an error's JSON, else the text."""
    try:
        found = parsed(text)
    except BodyError:
        return text
    for key in ("error", "message", "detail"):
        if isinstance(found, Mapping) and key in found:
            found = found[key]
    return found if isinstance(found, str) else text


def seconds_of(header: str | None) -> float | None:
    """Of a `Retry-After`: seconds, or until a date; None where it is neither."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError, TypeError):
        return None
