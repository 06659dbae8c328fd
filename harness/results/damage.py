"""Run directories whose files do not fit together: told in one line, whatever the reader stumbled over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from harness.core.errors import HarnessError, RunDirError
from harness.core.escaping import one_line

STUMBLES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What code that reads sound files meets in forged ones."""


@contextmanager
def told_as_damage(run_dirs: Sequence[str]) -> Iterator[None]:
    """Turn whatever goes wrong while these directories are read into one line; the cause is kept.

    Layouts and digests are checked where files are read; this is for what no check foresaw.

    Raises:
        RunDirError: naming the directories and the cause.
    """
    try:
        yield
    except (HarnessError, BrokenPipeError):
        raise
    except Exception as error:
        # What reads has imported these; a verb that reads nothing should not wait for them.
        import pyarrow as pa

        from harness.results.retrying import NO_ROOM_ERRNOS

        if not isinstance(error, (*STUMBLES, pa.ArrowException)):
            raise
        if getattr(error, "errno", None) in NO_ROOM_ERRNOS:  # what is written lacks room, nothing is damaged
            raise
        names = ", ".join(f"'{name}'" for name in run_dirs)
        raise RunDirError(
            f"the files of {names} do not fit together ({type(error).__name__}: {one_line(str(error), 160)}); "
            "expected them as a run wrote them, start anew with `harness run --fresh`"
        ) from error
