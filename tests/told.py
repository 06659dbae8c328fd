"""The command line called in this process, and what a refusal must look like."""

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest import mock

from harness import cli


@dataclass
class Told:
    """What a call of the command line left."""

    status: int
    out: str
    err: str


class _Stream(io.TextIOWrapper):
    def __init__(self):
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self):
        return self.buffer.getvalue().decode()


def call(*arguments) -> Told:
    """Run the command line with these arguments; only `SystemExit` may leave it."""
    out, err, status = _Stream(), _Stream(), 0
    with (
        mock.patch.object(sys, "argv", ["harness", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return Told(status, out.text(), err.text())


def refused(told: Told, *parts: str) -> None:
    """Assert exit status 2 and one line that begins with `error:` and holds these parts."""
    lines = told.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    usage = any("Usage: " in line for line in lines)
    assert told.status == 2, told.err
    assert "Traceback" not in told.err, told.err
    assert usage or (len(errors) == 1 and lines[-1] == errors[0]), told.err
    for part in parts:
        assert part in told.err, told.err
