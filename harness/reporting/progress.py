"""Live progress: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType

from rich.console import Console, RenderableType, RichCast
from rich.progress import BarColumn, Progress, TextColumn

from harness.results.schema import UnitStatistics

log = logging.getLogger(__name__)
LOG_EVERY_S = 10.0
LOOK_EVERY_S = 0.5
"""How often replicas are asked for the prompts of units under way."""
WIDE = 110
"""Columns from which on the bar has room for all it can say."""


class _Bar(Progress):
    """A bar with a board above it, brought up to date before it is drawn."""

    board: RichCast | None = None
    look: Callable[[], None] | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """The board, where there is one, and the bar."""
        if self.look is not None:
            self.look()
        if self.board is not None:
            yield self.board
        yield from super().get_renderables()


class RunProgress:
    """Counts finished units, and the prompts of those under way, and says how far, how fast and how much longer.

    Args:
        console: standard error; a bar is drawn when it is a terminal.
        n_units: units of the whole run; None while that is not known.
        done: units that were committed before.
        n_left: prompts that this driver is to see computed, those over content-free inputs included; None while that
            is not known.
        n_before: prompts that were committed before and are not computed again.
        board: drawn above the bar.
    """

    def __init__(
        self,
        console: Console,
        n_units: int | None,
        done: int,
        n_left: int | None,
        n_before: int = 0,
        board: RichCast | None = None,
    ) -> None:
        self.n_units, self.done, self.n_left, self.n_before = n_units, done, n_left, n_before
        self.prompts = self.tokens = self.records = self.failed = 0
        self._worked_s = 0.0
        self._since: float | None = None
        self._logged = time.monotonic()
        self._finished: set[str] = set()
        self._source: Callable[[], Mapping[str, int]] = dict
        self._under_way: Mapping[str, int] = {}
        self._looked = 0.0
        self._looking = threading.Lock()
        """Held while replicas are asked, which the bar's own thread does."""
        self._console = console
        self._bar: _Bar | None = None
        if console.is_terminal:
            self._bar = _Bar(
                TextColumn("{task.fields[phase]}"), BarColumn(None), TextColumn("{task.description}"), console=console
            )
            self._bar.expand = True
            self._bar.board, self._bar.look = board, self._show
            self._task = self._bar.add_task(self._words(), total=None, phase="loading")

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
    def working(self, under_way: Callable[[], Mapping[str, int]] = dict) -> Iterator[None]:
        """While units run: loading models does not count for the rates.

        Args:
            under_way: prompts that have gone through a model so far, of each unit under way by its id; asked now and
                then, by another thread and only within this context.
        """
        self._since, self._source = time.monotonic(), under_way
        try:
            yield
        finally:
            self._source = dict
            with self._looking:
                self._under_way = {}
            self._worked_s += time.monotonic() - self._since
            self._since = None

    def expect(self, n_units: int, n_left: int | None) -> None:
        """It is known now how many units there are, and how many prompts this driver sees computed in all."""
        self.n_units, self.n_left = n_units, n_left

    def unit_done(self, unit_id: str, statistics: UnitStatistics) -> None:
        """Count a finished unit and show it."""
        self._finished.add(unit_id)
        self.done += 1
        self.prompts += statistics.n_prompts
        self.tokens += statistics.tokens_computed
        self.records += statistics.n_records
        self.failed += statistics.n_failed
        now = time.monotonic()
        last = self.done == self.n_units
        if now - self._logged >= LOG_EVERY_S or last:
            self._logged = now
            of_all = "" if self.n_units is None else f"/{self.n_units}"
            log.info("%d%s units, %s", self.done, of_all, self.rates())

    def speed(self) -> tuple[float, float]:
        """Prompts and unique tokens per second of work."""
        seconds = self._seconds()
        return self.prompts / seconds, self.tokens / seconds

    def rates(self) -> str:
        """Speed of the work so far and the time left at that speed."""
        prompts, tokens = self.speed()
        text = f"{prompts:,.0f} prompts/s, {tokens:,.0f} unique tokens/s"
        return text + self._left(self.records) + self._failed()

    def _seconds(self) -> float:
        current = time.monotonic() - self._since if self._since is not None else 0.0
        return max(1e-9, self._worked_s + current)

    def _left(self, done: int) -> str:
        """The time left at the speed so far, where both are known."""
        if self.n_left is None or not done:
            return ""
        return f", {duration(self._seconds() * max(0, self.n_left - done) / done)} left"

    def _failed(self) -> str:
        return f", {self.failed:,} failed" if self.failed else ""

    def _show(self) -> None:
        """Bring the bar up to date."""
        assert self._bar is not None
        total = None if self.n_left is None else self.n_before + self.n_left
        phase = "loading" if self._since is None else "scoring"
        self._bar.update(self._task, completed=self._computed(), total=total, description=self._words(), phase=phase)

    def _computed(self) -> int:
        """Prompts of the whole run, those of units under way included."""
        return self.n_before + self.records + self._prompts_under_way()

    def _prompts_under_way(self) -> int:
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY_S and self._looking.acquire(blocking=False):
            self._looked = now
            try:
                self._under_way = self._source()
            finally:
                self._looking.release()
        return sum(n for unit_id, n in list(self._under_way.items()) if unit_id not in self._finished)

    def _words(self) -> str:
        """What stands beside the bar, as much as there is room for."""
        computed, is_wide = self._computed(), self._console.width >= WIDE
        of_all = "" if self.n_left is None else f"/{self.n_before + self.n_left:,}"
        text = f"{computed:,}{of_all} prompts"
        if is_wide:
            text += f", {self.done}{'' if self.n_units is None else f'/{self.n_units}'} units"
        now = computed - self.n_before
        if now:
            text += f", {now / self._seconds():,.0f}{' prompts' if is_wide else ''}/s"
            text += f", {self.tokens / self._seconds():,.0f} unique tokens/s" if is_wide and self.tokens else ""
        return text + self._left(now) + self._failed()


def duration(seconds: float) -> str:
    """Seconds as people read them: `42s`, `3m10s`, `2h05m`."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
