"""What stands on a terminal of a given size while a run goes on: log lines and a bar, drawn by a terminal emulator."""

import fcntl
import logging
import os
import pty
import re
import signal
import struct
import sys
import termios
import time
import tty
from contextlib import contextmanager

import pyte
import pytest

from harness.cli.ending import show_log
from harness.reporting.console import error_console
from harness.reporting.progress import RunProgress
from harness.results.schema import UnitStatistics
from harness.running.stopping import stoppable

UNIT = UnitStatistics(50, 0, 50, 5000, 800, 0.2, 0.2)
log = logging.getLogger("harness.test")


class Terminal:
    """A pseudo terminal; what is written to `file` is drawn."""

    def __init__(self, columns, lines=40):
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        # What a terminal does to lines; raw mode drops it.
        flags = termios.tcgetattr(slave)
        flags[1] |= termios.OPOST | termios.ONLCR
        termios.tcsetattr(slave, termios.TCSANOW, flags)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.file = os.fdopen(slave, "w", buffering=1, encoding="utf-8")
        self._screen = pyte.HistoryScreen(columns, lines, history=1000, ratio=0.5)
        self._stream = pyte.ByteStream(self._screen)
        os.set_blocking(self._master, False)

    @property
    def text(self):
        """All lines that were ever scrolled, and those of the screen."""
        self.file.flush()
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except BlockingIOError:
                break
            self._stream.feed(data)
        columns = range(self._screen.columns)
        above = ["".join(row[place].data for place in columns) for row in self._screen.history.top]
        return [line.rstrip() for line in [*above, *self._screen.display] if line.strip()]

    def close(self):
        self.file.close()
        os.close(self._master)


@contextmanager
def on_terminal(columns, monkeypatch):
    """Standard error is a terminal that shows the log. Within a test alone: pytest sets the streams anew before it."""
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    made = Terminal(columns)
    monkeypatch.setattr(sys, "stderr", made.file)
    error_console.cache_clear()
    logger = logging.getLogger("harness")
    handlers, level = list(logger.handlers), logger.level
    show_log()
    try:
        yield made
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        error_console.cache_clear()
        monkeypatch.undo()
        made.close()


@pytest.mark.parametrize("columns", [80, 200])
def test_log_lines_stand_above_one_bar_each_whole(columns, monkeypatch):
    with on_terminal(columns, monkeypatch) as terminal:
        with RunProgress(error_console(), 30, 0, 1500) as progress, progress.working():
            for number in range(30):
                log.warning("line %d about a replica", number)
                progress.unit_done(UNIT)
                print(f"a library writes {number}", file=sys.stderr)
                time.sleep(0.01)
            shown = terminal.text
        left = terminal.text
    assert sum("scoring" in line for line in shown) == 1, "\n".join(shown)
    assert "scoring" in shown[-1]
    for number in range(30):
        wanted = rf"\d\d:\d\d:\d\d line {number} about a replica"
        assert sum(re.fullmatch(wanted, line) is not None for line in shown) == 1, "\n".join(shown)
        assert sum(line == f"a library writes {number}" for line in shown) == 1, "\n".join(shown)
    assert sum("scoring" in line for line in left) == 1


@pytest.mark.parametrize("columns", [80, 200])
def test_a_stop_is_told_while_the_handler_waits(columns, monkeypatch):
    """A forward pass, during which no handler has its turn, is played by one that does not come back."""
    seen = []

    def busy(number, frame):
        deadline = time.monotonic() + 5
        while not seen and time.monotonic() < deadline:
            seen.extend(line for line in terminal.text if "stopping" in line)

    with on_terminal(columns, monkeypatch) as terminal:
        with stoppable(), RunProgress(error_console(), 30, 0, 1500):
            signal.signal(signal.SIGINT, busy)
            os.kill(os.getpid(), signal.SIGINT)
        left = terminal.text
    assert re.fullmatch(r"\d\d:\d\d:\d\d stopping, keeping what is done; once more ends it at once", seen[0])
    assert sum("scoring" in line for line in left) == 1
