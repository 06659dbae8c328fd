"""How the program ends: every error in one line, its status, output that nobody reads."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import typer
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler

from harness.core.errors import BrokenDeviceError, ClusterLostError, ConfigError
from harness.core.foreign import panics_as_errors, told, wants_traceback
from harness.reporting.console import SafeFormatter, error_console
from harness.running.stopping import leave

TIME = "%H:%M:%S"
"""Of log lines; `run.log` has the date."""
READER_LEFT = 141
"""Exit status where nobody reads the output any more: that of programs which SIGPIPE ends."""


def run_to_the_end(app: typer.Typer) -> None:
    """Run the verb that was asked for; every error ends in one line, with status 2 where the user can mend it."""
    _open_streams()
    show_log()
    try:
        with panics_as_errors():
            _check_folder()
            _run_app(app)
    except BrokenPipeError:
        _let_go_of_output()
        sys.exit(READER_LEFT)
    except Exception as error:
        text, status = told(error)
        if wants_traceback():
            traceback.print_exception(error)
        if isinstance(error, BrokenDeviceError):
            text += "; committed work is kept, run the same command again to go on"
        with suppress(OSError):  # nobody reads it
            sys.stderr.write(f"error: {text}\n")
        # Taking a lost cluster or a broken device apart in an orderly way hangs or aborts the process.
        if isinstance(error, ClusterLostError | BrokenDeviceError):
            leave(status)
        try:
            sys.stdout.flush()
        except OSError:
            _let_go_of_output()
        sys.exit(status)


def _open_streams() -> None:
    """See that the standard streams can be written, whatever started this process, and any text to any encoding.

    One that is closed (`>&-`, a daemon's) is replaced by nothing; else the next file that is opened takes its place.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number and not _is_open(number):
                os.dup2(nothing, number)
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _check_folder() -> None:
    """Refuse a current directory that is gone: every relative path would mean nothing.

    Raises:
        ConfigError: it is.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"the current directory cannot be used: {error.strerror}; expected one that is there: change into another"
        ) from None


def show_log() -> None:
    """Write the harness's log to standard error, on a terminal above the bar."""
    console = error_console()
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if console.is_terminal:
        handler = RichHandler(
            console=console,
            show_path=False,
            show_level=False,
            markup=False,
            highlighter=NullHighlighter(),
            log_time_format=TIME,
            omit_repeated_times=False,
        )
        handler.setFormatter(SafeFormatter("%(message)s"))
    else:
        handler.setFormatter(SafeFormatter("%(asctime)s %(message)s", TIME))
    logger = logging.getLogger("harness")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)


def _run_app(app: typer.Typer) -> None:
    """Run the verb and write all of its output.

    Raises:
        BrokenPipeError: a reader such as `head` has seen enough; typer would end with 1.
    """
    try:
        app()
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):
            raise stop.__context__ from None
        sys.stdout.flush()
        raise


def _let_go_of_output() -> None:
    """Keep the interpreter from writing once more, when it ends, what could not be written."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
