"""What the driver tells Weights & Biases, without ever waiting for it.

Nothing of a tracker can stop a run: its methods put something on a queue, and its end waits a bounded time.
Refuses to know wandb's interface and how figures are computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import pandas as pd

from harness.config.schema import WandbConfig
from harness.reporting.tracking.process_tracker import FILES, Bounds, ProcessTracker
from harness.reporting.tracking.tables import Facts, Frame


class Tracker(Protocol):
    """Follows one session of a run; no method raises, blocks or waits, but leaving the context."""

    def cell_finished(self, row: Facts) -> None:
        """Log one row of the history.

        Args:
            row: the figures of a cell, or a function that computes them, called on another thread.
        """

    def progress(
        self,
        units_done: int,
        units_total: int | None,
        prompts_per_s: float,
        unique_tokens_per_s: float,
        gpu_memory_bytes: int | None = None,
    ) -> None:
        """Log how far the run is; at most once in `PROGRESS_EVERY_S`, and when the last unit is done.

        `units_total` is None while nobody knows how many there will be.
        """

    def finish(
        self,
        cells: pd.DataFrame,
        *,
        pairs: Frame | None = None,
        records: Frame | None = None,
        summary: Facts | None = None,
        files: Sequence[str] = FILES,
    ) -> None:
        """Log the results of the whole run.

        Args:
            cells: one row per cell.
            pairs: paired differences, or a function that computes them, called on another thread.
            records: rows for the sample table, thinned evenly to `tables.SAMPLE_ROWS`, or
                a function that loads them, called on another thread.
            summary: further entries of the run's summary, such as the best cell's expected figure,
                or a function that computes them, called on another thread.
            files: names in the run directory that make up the artifact; `parts` stands for all.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_tracker(
    settings: WandbConfig,
    grid_id: str,
    config: Mapping[str, Any],
    run_dir: str,
    cells_before: int = 0,
    bounds: Bounds | None = None,
) -> Tracker:
    """The tracker of a session, for use as a context manager.

    Args:
        settings: the `wandb` section of the configuration.
        grid_id: the same text in every session of a run directory; becomes the W&B run's id.
        config: the resolved configuration, logged as the W&B run's.
        run_dir: a local path or a storage URI.
        cells_before: cells that earlier sessions have finished.
        bounds: of waiting; the defaults suit all but tests.
    """
    if settings.mode == "disabled":
        return _NoTracker()
    if settings.mode in ("offline", "online"):
        return ProcessTracker(settings, grid_id, config, run_dir, cells_before, bounds or Bounds())
    raise ValueError(f"unknown wandb.mode '{settings.mode}'")


class _NoTracker:
    def cell_finished(self, *_: Any) -> None:
        pass

    def progress(self, *_: Any, **__: Any) -> None:
        pass

    def finish(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
