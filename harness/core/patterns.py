"""Regular expressions that users write, with a limit of time: `(a+)+b` takes twice as long for each letter more.

Python's matcher stops for signals alone, which only the main thread gets; other threads let another process match.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from harness.core.errors import ConfigError
from harness.core.escaping import one_line
from harness.core.time_limit import can_limit, time_limit

MOST_SECONDS = 5.0
"""For one text, or in another process for all of them and its start."""
_CHILD = """
import json, re, sys
pattern, texts = json.load(sys.stdin)
json.dump([[found.group(1 if found.re.groups else 0) or "" for found in re.finditer(pattern, text)] for text in texts],
          sys.stdout)
"""


def found_in(texts: Sequence[str], pattern: str, key: str) -> list[list[str]]:
    """What a pattern finds in each text: its first group, or all of it where it has none.

    Args:
        texts: from anywhere.
        pattern: from a configuration or a run directory.
        key: that holds it, for messages.

    Raises:
        ConfigError: it is no regular expression, or takes too long.
    """
    shown = f"{key} is {one_line(repr(pattern), 80)}"
    try:
        compiled = re.compile(pattern)
        if can_limit():
            return [_found(compiled, text) for text in texts]
        return _found_elsewhere(pattern, texts)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{shown}, expected a regular expression: {one_line(str(error), 80)}") from None
    except TimeoutError:
        raise ConfigError(
            f"{shown}, which takes more than {MOST_SECONDS:g} s on a text: repetitions within repetitions take a time "
            "that doubles with each letter; write it without"
        ) from None


def _found(pattern: re.Pattern[str], text: str) -> list[str]:
    with time_limit(MOST_SECONDS):
        return [found.group(1 if pattern.groups else 0) or "" for found in pattern.finditer(text)]


def _found_elsewhere(pattern: str, texts: Sequence[str]) -> list[list[str]]:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _CHILD],
            input=json.dumps([pattern, list(texts)]),
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    found: list[list[str]] = json.loads(done.stdout)
    return found
