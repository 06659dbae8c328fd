"""What a report calls a strategy, and which cells each one is made of.

By default a strategy is a template at a K, its draws of demonstrations averaged: the best single draw is luck that
nobody gets again. Knows cells and comparisons; refuses to know how they are estimated or shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from harness.analysis.cells import is_zero_shot
from harness.analysis.compare import Comparison, compare
from harness.analysis.strategies import labels_of
from harness.analysis.table import AXES
from harness.core.errors import ConfigError

DEFAULT = ("run", "model", "template", "k")
"""Axes of a strategy where none are asked for: all but the seed."""
EVERY_CELL = (*DEFAULT, "seed")
_SHARED = ["label", "mean", "low", "high", "method", "n_scored", "n_attempted", "is_best", "may_be_best", "share_best"]


def compared(
    run_dirs: Sequence[str], by: Sequence[str], seeds: str, is_raced: bool
) -> tuple[Comparison | None, tuple[str, ...]]:
    """The comparison that a report is about.

    Args:
        run_dirs: run directories of a task.
        by: axes of a strategy; empty: `DEFAULT`, and every cell where these leave nothing to compare.
        seeds: what averaged seeds stand for, as of `compare`.
        is_raced: whether a race decided what there is: then every cell has other samples, and none are averaged.

    Returns:
        The comparison, None where there is one strategy; and what a reader should know of that.

    Raises:
        ConfigError: axes that were asked for cannot be compared by.
        DataError: runs of different tasks or samples.
    """
    if by:
        return compare(run_dirs, by, seeds=seeds), ()
    why: tuple[str, ...] = ()
    if not is_raced:
        axes = [axis for axis in DEFAULT if axis != "run" or len(run_dirs) > 1]
        try:
            return compare(run_dirs, axes, seeds=seeds), ()
        except ConfigError as error:
            why = (f"every draw of demonstrations is a strategy of its own here: {error}",)
    try:
        return compare(run_dirs), why
    except ConfigError as error:
        return None, (str(error),)


def cells_of(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The cells of all runs as one frame, K = 0 once.

    Args:
        frames: run, as in the axis, to its cells as `harness show` prints them.

    Returns:
        The axes, `cell_seed` (that of the records, at K = 0 too), the cells' figures, and `label`.
    """
    frame = pd.concat([cells.assign(run=run, calibration="") for run, cells in frames.items()], ignore_index=True)
    frame["cell_seed"] = frame["seed"]
    zero = is_zero_shot(frame)
    copies = frame[zero].sort_values("seed", kind="stable").duplicated(["run", "model", "template"])
    frame = frame.drop(index=copies.index[copies]).reset_index(drop=True)
    frame["seed"] = frame["seed"].astype("Int64").mask(is_zero_shot(frame))
    frame["label"] = labels_of(frame[list(AXES)])
    return frame


def ranked(
    cells: pd.DataFrame, comparison: Comparison | None, metric: str, interval: tuple[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Strategies, best first, and the cells in their order.

    Args:
        cells: from `cells_of`.
        comparison: None: every cell is a strategy.
        metric: that cells are ranked by without a comparison.
        interval: columns of its interval.

    Returns:
        Strategies as in `ReportData.strategies`, without means over their cells; and the cells, `strategy` being the
        row of theirs, -1 where the comparison left the cell out.
    """
    if comparison is None:
        cells = cells.sort_values(metric, ascending=False, kind="stable", ignore_index=True)
        figures = dict(zip(("low", "high"), (cells[name] for name in interval), strict=True))
        first = np.arange(len(cells)) == 0
        judged = {"method": "", "is_best": first, "may_be_best": first, "share_best": np.nan}
        own = cells.assign(mean=cells[metric], **figures, **judged)
        return own[_SHARED], cells.assign(strategy=np.arange(len(cells)))
    strategies = comparison.strategies[_SHARED]
    place = {label: row for row, label in enumerate(strategies["label"])}
    members = comparison.members
    row_of = {_key(cell): place[cell["label"]] for cell in members.to_dict("records")}
    cells = cells.assign(strategy=[row_of.get(_key(cell), -1) for cell in cells.to_dict("records")])
    order = cells["strategy"].where(cells["strategy"] >= 0, len(strategies))
    return strategies, cells.loc[order.sort_values(kind="stable").index].reset_index(drop=True)


def averaged(strategies: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The strategies with their axes, `n_draws` (of demonstrations), and the means of their cells' figures.

    An axis that is averaged over has no K or seed, and says of templates, models and runs how many there are.
    """
    groups = [cells[cells["strategy"] == row] for row in range(len(strategies))]
    not_figures = {*AXES, *strategies.columns, "cell_seed", "strategy"}
    figures = [name for name in cells if name not in not_figures and is_numeric_dtype(cells[name])]
    points = ["run", "model", "template", "k"]
    means = pd.DataFrame([own.groupby(points, dropna=False)[figures].mean().mean() for own in groups])
    axes = pd.DataFrame({axis: [_common(axis, own[axis]) for own in groups] for axis in AXES})
    for name in ("k", "seed"):
        axes[name] = axes[name].astype("Int64")
    draws = [int(own["seed"].nunique()) for own in groups]
    return pd.concat([strategies.reset_index(drop=True), axes, means.reset_index(drop=True)], axis=1).assign(
        n_draws=draws
    )


def _common(axis: str, values: pd.Series) -> Any:
    found = values.drop_duplicates().tolist()
    if len(found) == 1:
        return None if pd.isna(found[0]) else found[0]
    return None if axis in ("k", "seed") else f"{len(found)} {axis}s"


def _key(cell: Mapping[Any, Any]) -> tuple[Any, ...]:
    return tuple(None if pd.isna(cell[axis]) else cell[axis] for axis in AXES)
