"""What stands on a terminal of a given size while a run goes on: log lines and a bar, drawn by a terminal emulator."""

import fcntl
import io
import logging
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import threading
import time
import tty
from contextlib import contextmanager, suppress
from dataclasses import replace

import pyte
import pytest
from rich.console import Console

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
        self._drawing = threading.Lock()
        self._drawer = threading.Thread(target=self._keep_drawing, daemon=True)
        self._drawer.start()

    def _keep_drawing(self):
        """Draw what comes, so that nobody waits for room in the terminal's buffer."""
        with suppress(OSError):  # the other end is closed
            while select.select([self._master], [], []):
                self._draw()

    def _draw(self):
        with self._drawing, suppress(BlockingIOError):
            while True:
                self._stream.feed(os.read(self._master, 1 << 16))

    @property
    def text(self):
        """All lines that were ever scrolled, and those of the screen."""
        self.file.flush()
        self._draw()
        columns = range(self._screen.columns)
        with self._drawing:
            above = ["".join(row[place].data for place in columns) for row in self._screen.history.top]
            return [line.rstrip() for line in [*above, *self._screen.display] if line.strip()]

    def close(self):
        self.file.close()
        self._drawer.join(5)
        os.close(self._master)


@contextmanager
def on_terminal(columns, monkeypatch):
    """Standard error is a terminal that shows the log. Within a test alone: pytest sets the streams anew before it."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    # Rich asks the process's own three files for the size, and these belong to pytest.
    for name, value in {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40"}.items():
        monkeypatch.setenv(name, value)
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
                progress.unit_done(f"u{number}", UNIT)
                print(f"a library writes {number}", file=sys.stderr)
                time.sleep(0.01)
            shown = terminal.text
        left = terminal.text
    assert sum("━" in line for line in shown) == 1, "\n".join(shown)
    assert "scoring" in shown[-1]
    for number in range(30):
        wanted = rf"\d\d:\d\d:\d\d line {number} about a replica"
        assert sum(re.fullmatch(wanted, line) is not None for line in shown) == 1, "\n".join(shown)
        assert sum(line == f"a library writes {number}" for line in shown) == 1, "\n".join(shown)
    assert sum("━" in line for line in left) == 1


@pytest.mark.parametrize("columns", [80, 200])
def test_the_bar_moves_while_a_unit_is_computed(columns, monkeypatch):
    """One unit of 50 prompts is committed, one of 80 is under way; 200 prompts were there before."""
    monkeypatch.setattr("harness.reporting.progress.LOOK_EVERY_S", 0)
    through = {"second": 0}

    def bar(terminal, progress):
        progress._bar.refresh()
        (line,) = [line for line in terminal.text if "━" in line]
        assert len(line) <= columns and "…" not in line and ", -" not in line
        return line

    with on_terminal(columns, monkeypatch) as terminal, RunProgress(error_console(), 3, 1, 130, 200) as progress:
        assert bar(terminal, progress).startswith("loading") and "200/330 prompts" in bar(terminal, progress)
        with progress.working(lambda: through):
            progress.unit_done("first", UNIT)
            assert "250/330 prompts" in bar(terminal, progress)
            through["second"] = 27
            assert "277/330 prompts" in bar(terminal, progress)
            assert (", 2/3 units, " in bar(terminal, progress)) == (columns == 200)
            progress.unit_done("second", replace(UNIT, n_records=80, n_prompts=80))
            last = bar(terminal, progress)
            assert "330/330 prompts" in last and last.endswith("0s left"), "what is committed is not counted twice"


def test_the_time_left_is_never_below_nothing():
    """More may come than was expected, as when another driver's failures are computed again."""
    progress = RunProgress(Console(file=io.StringIO()), 1, 0, 40)
    with progress.working():
        progress.unit_done("first", UNIT)
    assert progress.rates().endswith(", 0s left")


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
    assert sum("━" in line for line in left) == 1
