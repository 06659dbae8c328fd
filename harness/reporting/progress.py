"""Live progress: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from rich.console import Console, RenderableType, RichCast
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from harness.results.schema import UnitStatistics

log = logging.getLogger(__name__)
LOG_EVERY_S = 10.0


class _Bar(Progress):
    """A bar with a board above it."""

    board: RichCast | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """The board, where there is one, and the bar."""
        if self.board is not None:
            yield self.board
        yield from super().get_renderables()


class RunProgress:
    """Counts finished units and says how far, how fast and how much longer.

    Args:
        console: standard error; a bar is drawn when it is a terminal.
        n_units: units of the whole run; None while that is not known.
        done: units that were committed before.
        n_records: records of the units still to do; None while that is not known.
        board: drawn above the bar.
    """

    def __init__(
        self,
        console: Console,
        n_units: int | None,
        done: int,
        n_records: int | None,
        board: RichCast | None = None,
    ) -> None:
        self.n_units, self.done, self.n_records = n_units, done, n_records
        self.prompts = self.tokens = self.records = self.failed = 0
        self._worked_s = 0.0
        self._since: float | None = None
        self._logged = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = _Bar(
                TextColumn("scoring"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} units"),
                TextColumn("{task.fields[rates]}"),
                TimeElapsedColumn(),
                console=console,
            )
            self._bar.board = board
            self._task = self._bar.add_task("", total=n_units, completed=done, rates="")

    def __enter__(self) -> RunProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with suppress(OSError):  # the terminal is closed
                self._bar.stop()

    @contextmanager
    def working(self) -> Iterator[None]:
        """While units run: loading models does not count for the rates."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._worked_s += time.monotonic() - self._since
            self._since = None

    def expect(self, n_units: int, n_records: int | None) -> None:
        """It is known now how many units there are, and how many records of them this driver commits in all."""
        self.n_units, self.n_records = n_units, n_records
        if self._bar is not None:
            self._bar.update(self._task, total=n_units)

    def unit_done(self, statistics: UnitStatistics) -> None:
        """Count a finished unit and show it."""
        self.done += 1
        self.prompts += statistics.n_prompts
        self.tokens += statistics.tokens_computed
        self.records += statistics.n_records
        self.failed += statistics.n_failed
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rates=self.rates())
        now = time.monotonic()
        last = self.done == self.n_units
        if now - self._logged >= LOG_EVERY_S or last:
            self._logged = now
            of_all = "" if self.n_units is None else f"/{self.n_units}"
            log.info("%d%s units, %s", self.done, of_all, self.rates())

    def speed(self) -> tuple[float, float]:
        """Prompts and unique tokens per second of work."""
        current = time.monotonic() - self._since if self._since is not None else 0.0
        seconds = max(1e-9, self._worked_s + current)
        return self.prompts / seconds, self.tokens / seconds

    def rates(self) -> str:
        """Speed of the work so far and the time left at that speed."""
        current = time.monotonic() - self._since if self._since is not None else 0.0
        seconds = max(1e-9, self._worked_s + current)
        text = f"{self.prompts / seconds:,.0f} prompts/s, {self.tokens / seconds:,.0f} unique tokens/s"
        if self.n_records is not None:
            text += f", {duration(seconds * (self.n_records - self.records) / max(1, self.records))} left"
        return text + (f", {self.failed:,} failed" if self.failed else "")


def duration(seconds: float) -> str:
    """Seconds as people read them: `42s`, `3m10s`, `2h05m`."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
