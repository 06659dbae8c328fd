"""Steps that do what steps should not, for the tests of those who run them."""

from __future__ import annotations

import os
import sys
import time

from tests.gpu.steps import Note, SkippedError, WrongError


def works(note: Note) -> None:
    """Find something, and tell in which process."""
    note("figure", 1.5)
    note("process", os.getpid())


def hangs(note: Note) -> None:
    """Find something, and never end."""
    note("figure", 2.5)
    time.sleep(600)


def dies(note: Note) -> None:
    """Find something, and take the process along."""
    note("figure", 3.5)
    os._exit(3)


def fails(note: Note) -> None:
    """Raise what nobody expects."""
    raise RuntimeError("no\nidea")


def is_wrong(note: Note) -> None:
    """Find what should not be."""
    raise WrongError("2 is not 1")


def is_skipped(note: Note) -> None:
    """Lack something."""
    raise SkippedError("no GPU")


def breaks_the_device(note: Note) -> None:
    """Raise, and leave a device that does not answer."""
    vars(sys.modules["__main__"])["is_broken"] = lambda: True
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
