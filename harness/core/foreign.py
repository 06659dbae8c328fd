"""Exceptions that the harness did not raise, told in one line with an exit status.

The one place where such an exception meets the user. `HARNESS_TRACEBACK=1` prints the whole of it as well.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.addresses import redacted
from harness.core.errors import HarnessError, Interrupted, UserError
from harness.core.escaping import one_line

VARIABLE = "HARNESS_TRACEBACK"
USERS_DOING, PROGRAM_FAULT = 2, 1
"""Exit statuses."""


class PanicError(Exception):
    """A library written in Rust gave up, as tokenizers does over files that are damaged."""


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Turn the panic of a library written in Rust into an error: no `except Exception` would catch it.

    Raises:
        PanicError: with its words.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise PanicError(str(error)) from error


def told(error: BaseException) -> tuple[str, int]:
    """An exception as one line, safe to show, and the exit status it ends the program with."""
    if isinstance(error, HarnessError):
        status = USERS_DOING if isinstance(error, UserError) else PROGRAM_FAULT
        return one_line(redacted(str(error))), status
    text, status = _foreign(error)
    return one_line(redacted(text)), status


def wants_traceback() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


@contextmanager
def blamed_on(subject: str, remedy: str, kind: type[UserError]) -> Iterator[None]:
    """Turn what code or a file of the user raises into one line, `SystemExit` and the like included.

    Args:
        subject: what was being done with what, such as `task 'x': its module 'y'`.
        remedy: what to do.
        kind: the error to raise.

    Raises:
        UserError: of the kind; the cause is kept.
    """
    try:
        yield
    except HarnessError:
        raise
    except BaseException as error:
        if is_the_users(error):
            raise
        raise kind(f"{subject} raised {described(error)}; {remedy}") from error


def is_the_users(error: BaseException) -> bool:
    """Whether an exception may come from the keyboard, or ends a generator, rather than from what was called.

    `stoppable` turns the keyboard's interrupts into `Interrupted`, and only the main thread gets them.
    """
    if isinstance(error, Interrupted | GeneratorExit):
        return True
    listens = threading.current_thread() is threading.main_thread()
    listens = listens and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, KeyboardInterrupt) and listens


def described(error: BaseException) -> str:
    """Type, text and place of an exception: `ValueError: no luck (my_task.py:12)`."""
    text = one_line(redacted(str(error)), 200)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{f': {text}' if text else ''}{place}"


def reason(error: BaseException) -> str:
    """Why a file could not be used, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):
        return (
            f"it is not {error.encoding.upper()} text: byte {error.object[error.start]:#04x} at place {error.start:,}"
        )
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return one_line(redacted(str(error)), 200)


def _foreign(error: BaseException) -> tuple[str, int]:
    if isinstance(error, MemoryError):
        return "this process ran out of memory; free some, or lower task.limit or engine.tokens_per_pack", PROGRAM_FAULT
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{_file_of(error)}: {reason(error)}; free space there and run the same command again", USERS_DOING
    if isinstance(error, OSError) and error.filename is not None:
        return f"{_file_of(error)}: {reason(error)}; expected a file or folder that you may use", USERS_DOING
    if isinstance(error, UnicodeError):
        return f"a text cannot be used: {reason(error)}; expected UTF-8 without lone surrogates", USERS_DOING
    if isinstance(error, RecursionError):
        return "a file or value is nested too deeply; expected a few levels", USERS_DOING
    if isinstance(error, PanicError):
        return (
            f"a library gave up over what it read ({one_line(redacted(str(error)), 200)}); a file of the model is "
            "likely damaged (tokenizer.json?): copy or download it again"
        ), USERS_DOING
    import pyarrow as pa
    import yaml

    if isinstance(error, yaml.YAMLError | json.JSONDecodeError | pa.ArrowException):
        return f"a file cannot be read: {reason(error)}; expected it undamaged", USERS_DOING
    text = f"{described(error)}: a fault of this program; set {VARIABLE}=1 to see where, and report it"
    return text, PROGRAM_FAULT


def _file_of(error: OSError) -> str:
    return f"'{os.fsdecode(error.filename)}'" if isinstance(error.filename, str | bytes) else "a file"
