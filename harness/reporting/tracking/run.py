"""What a run tells its tracker, and when: cells as they finish, then the whole.

Knows the run directory and the plan; refuses to know what the tracker does with it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import pandas as pd

from harness.analysis.cells import KEYS
from harness.analysis.compare import compare
from harness.analysis.strategies import THIS_DRAW
from harness.analysis.summary import Metric, summarise
from harness.config.schema import RunConfig
from harness.planning.units import Cell
from harness.reporting.tracking.charts import interval_columns
from harness.reporting.tracking.tracker import Tracker, open_tracker
from harness.results.records import load_records
from harness.results.store import RunStore


def open_run_tracker(config: RunConfig, tracking_id: str, store: RunStore, n_cells_done: int) -> Tracker:
    """A W&B run per run directory: `--fresh` gives another one, resuming and growing the same."""
    return open_tracker(config.wandb, tracking_id, config.as_dict(), store.run_dir, n_cells_done)


def tell_cells(
    tracker: Tracker, store: RunStore, cells: Sequence[Cell], parts: Collection[str], metrics: Mapping[str, Metric]
) -> None:
    """Log cells whose records are all committed; read and computed on the tracker's thread.

    Args:
        tracker: is told.
        store: of the run directory.
        cells: that are whole.
        parts: that hold their records; they may hold others, too.
        metrics: the task's further figures.
    """

    @functools.cache
    def figures() -> dict[tuple[Any, ...], dict[str, Any]]:
        cells = summarise(store.run_dir, parts, metrics)
        rows = [{str(name): value for name, value in row.items()} for row in cells.to_dict("records")]
        return {tuple(None if pd.isna(row[name]) else row[name] for name in KEYS): row for row in rows}

    def row(cell: Cell) -> dict[str, Any]:
        return figures()[astuple(cell)]

    for cell in cells:
        tracker.cell_finished(functools.partial(row, cell))


def tell_results(
    tracker: Tracker, store: RunStore, cells: pd.DataFrame, summary: Callable[[], Mapping[str, Any]] | None = None
) -> None:
    """Log the whole run; what takes long is computed on the tracker's thread.

    Args:
        tracker: is told.
        store: of the run directory.
        cells: as `harness show` prints.
        summary: what is said of the whole where cells cannot be compared; else the best and the differences are.
    """
    if summary is not None:
        tracker.finish(cells, records=lambda: load_records(store.run_dir), summary=dict(summary()))
        return
    compared = functools.cache(lambda: compare([store.run_dir]))

    def expected() -> dict[str, Any]:
        found = compared()
        best = found.strategies[found.strategies["is_best"]].iloc[0]
        estimate, figure = found.selection.expected, found.settings["metric"]
        low, high = interval_columns(figure)
        facts = {figure: estimate.value, low: estimate.low, high: estimate.high, "scope": found.scope}
        axes = {name: best[name] for name in ("model", "template", "k", "seed") if not pd.isna(best[name])}
        pairs = {"paired_differences/scope": THIS_DRAW} if found.is_one_draw else {}
        labels = {
            f"labels/{one.model}/{name}": end
            for one in found.crossings
            for name, end in (("level_at", one.value), ("low", one.low), ("better_from", one.high))
            if 0 < end < math.inf
        }
        return {f"best/{name}": value for name, value in {**axes, **facts}.items()} | pairs | labels

    several = len(cells) > 1
    tracker.finish(
        cells,
        pairs=(lambda: compared().pairs) if several else None,
        records=lambda: load_records(store.run_dir),
        summary=expected if several else None,
    )
