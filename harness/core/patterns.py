"""Regular expressions that users write, with a limit of time: `(a+)+b` takes twice as long for each letter more.

Python's matcher stops for signals alone, which only the main thread gets; other threads let another process match.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from harness.core.errors import ConfigError
from harness.core.escaping import one_line

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
        if threading.current_thread() is threading.main_thread():
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
    with _limited():
        return [found.group(1 if pattern.groups else 0) or "" for found in pattern.finditer(text)]


@contextmanager
def _limited() -> Iterator[None]:
    """Let a signal of the clock end the block.

    Raises:
        TimeoutError: it took too long.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


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
