"""What a reader may ask the samples about: every strategy, and every mean of a template at a K that is no strategy.

Knows which cells belong together; refuses to know what is shown of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis.table import FloatArray
from harness.reporting.report.gathering import ReportData
from harness.reporting.report.wording import last_part

POINT = ["run", "model", "template", "k"]
"""Of cells that differ in their draw alone."""


@dataclass(frozen=True)
class Group:
    """Cells that are asked about together."""

    label: str
    cells: tuple[int, ...]
    """Rows of `ReportData.cells`."""


def groups_of(data: ReportData) -> list[Group]:
    """The strategies in their order, then points of the grid that are none."""
    found = [
        Group(str(label), tuple(np.flatnonzero(data.cells["strategy"] == row).tolist()))
        for row, label in enumerate(data.strategies["label"])
    ]
    known = {group.cells for group in found}
    prompts = data.cells[data.cells["template"].notna()]
    several = [name for name in ("run", "model") if prompts[name].nunique() > 1]
    for key, own in prompts.groupby(POINT, sort=False):
        if (cells := tuple(own.index.tolist())) not in known:
            names = dict(zip(POINT, key, strict=True))
            words = [*(last_part(str(names[name])) for name in several), str(names["template"]), f"K={names['k']}"]
            found.append(Group(" ".join(words), cells))
    return found


def group_at(data: ReportData, groups: list[Group], run: str, model: str, template: str, k: int) -> int:
    """The place of the group that a point of the grid is; -1 where no cell is there."""
    wanted = {"run": run, "model": model, "template": template, "k": k}
    is_own = pd.Series(True, index=data.cells.index)
    for name, value in wanted.items():
        is_own &= (data.cells[name] == value).fillna(False).astype(bool)
    cells = tuple(np.flatnonzero(is_own).tolist())
    return next((place for place, group in enumerate(groups) if group.cells == cells), -1)


def per_sample(data: ReportData, group: Group) -> FloatArray:
    """(N,) what a group scores on each sample, as `compare` averages it: draws first, then the other axes."""
    cells = data.cells.iloc[list(group.cells)]
    points = cells.groupby(POINT, sort=False, dropna=False).indices.values()
    rows = np.array(group.cells)
    means: FloatArray = np.mean([data.answers.value[rows[own]].mean(axis=0) for own in points], axis=0)
    return means
