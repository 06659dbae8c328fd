"""What a run tells its tracker, and when: cells as they finish, then the whole.

Knows the run directory and the plan; refuses to know what the tracker does with it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.analysis.compare import compare
from harness.analysis.strategies import THIS_DRAW
from harness.analysis.summary import Metric, summarise
from harness.config.schema import RunConfig
from harness.core.hashing import content_hash
from harness.planning.units import Cell, Plan
from harness.reporting.tracking.charts import interval_columns
from harness.reporting.tracking.tracker import Tracker, open_tracker
from harness.results.records import load_records
from harness.results.store import RunStore


def open_run_tracker(
    config: RunConfig, manifest: dict[str, Any], store: RunStore, plan: Plan, done: set[str]
) -> Tracker:
    """A W&B run per run directory: `--fresh` gives another one, resuming the same."""
    begun = manifest["sessions"][0]["started"]
    grid_id = content_hash({"identity": manifest["identity"], "name": config.name, "begun": begun})[:16]
    waiting = {cell for unit in plan.units if unit.id not in done for cell in unit.cells()}
    return open_tracker(config.wandb, grid_id, config.as_dict(), store.run_dir, len(plan.cells) - len(waiting))


def tell_cells(
    tracker: Tracker, store: RunStore, plan: Plan, cells: tuple[Cell, ...], metrics: Mapping[str, Metric]
) -> None:
    """Log cells whose units are all committed; read and computed on the tracker's thread."""
    units = [unit.id for unit in plan.units if unit.cells() == cells and unit.id not in plan.calibration_units]
    figures = functools.cache(lambda: summarise(store.run_dir, units, metrics))

    def row(place: int) -> dict[str, Any]:
        return {str(name): value for name, value in figures().iloc[place].items()}

    for place in range(len(cells)):
        tracker.cell_finished(functools.partial(row, place))


def tell_results(tracker: Tracker, store: RunStore, cells: pd.DataFrame) -> None:
    """Log the whole run; what takes long is computed on the tracker's thread."""
    compared = functools.cache(lambda: compare([store.run_dir]))

    def expected() -> dict[str, Any]:
        found = compared()
        best = found.strategies[found.strategies["is_best"]].iloc[0]
        estimate, figure = found.selection.expected, found.settings["metric"]
        low, high = interval_columns(figure)
        facts = {figure: estimate.value, low: estimate.low, high: estimate.high, "scope": found.scope}
        axes = {name: best[name] for name in ("model", "template", "k", "seed") if not pd.isna(best[name])}
        pairs = {"paired_differences/scope": THIS_DRAW} if found.is_one_draw else {}
        return {f"best/{name}": value for name, value in {**axes, **facts}.items()} | pairs

    several = len(cells) > 1
    tracker.finish(
        cells,
        pairs=(lambda: compared().pairs) if several else None,
        records=lambda: load_records(store.run_dir),
        summary=expected if several else None,
    )
