"""Charts of the cells for W&B's own presets, which a user may edit in the browser.

A chart is a table and the names of its columns in the preset. Where a strategy has several seeds, its
interval spans those of all of them: the range of the means alone would hide what the samples leave open.
Knows cells; refuses to know wandb.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.analysis.cells import main_figure, of_prompts


@dataclass(frozen=True)
class Chart:
    """One chart, as plain data for the process that holds wandb."""

    name: str
    preset: str
    """W&B's name of the Vega specification that draws it."""
    fields: Mapping[str, str]
    """Fields of the preset to columns of the table."""
    texts: Mapping[str, str]
    """Texts of the preset, such as its title."""
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Strategy:
    """One (model, template, K) or reference, its main figure over the seeds."""

    model: str
    template: str | None
    """None for a reference; so is K where it came trained."""
    k: int | None
    value: float
    """Mean over seeds; NaN when nothing was scored."""
    low: float
    high: float
    n_seeds: int
    n_scored: int
    """Samples under one seed, the smallest number."""


def strategies(cells: pd.DataFrame) -> list[Strategy]:
    """The strategies in the order of the cells.

    Args:
        cells: one row per cell, as `harness.analysis.summary.summarise` gives them.
    """
    figure = main_figure(cells)
    low, high = interval_columns(figure)
    found = []
    for _, group in cells.groupby(["model", "template", "k"], sort=False, observed=True, dropna=False):
        model, template, k = (group[name].tolist()[0] for name in ("model", "template", "k"))
        found.append(
            Strategy(
                str(model),
                None if pd.isna(template) else str(template),
                None if pd.isna(k) else int(k),
                float(group[figure].mean()),
                float(group[low].min()),
                float(group[high].max()),
                int(group[figure].notna().sum()),
                int(group["n_scored"].min()),
            )
        )
    return found


BEST = "best prompt, as scored"
"""A line that is level over labelled examples."""


def interval_columns(figure: str) -> tuple[str, str]:
    """Names of the columns that hold the interval of a main figure."""
    return ("low", "high") if figure == "accuracy" else (f"{figure}_low", f"{figure}_high")


def charts(cells: pd.DataFrame) -> list[Chart]:
    """All charts of a grid; what has no figure is left out, so that it never shows as 0."""
    figure = main_figure(cells)
    found = [s for s in strategies(cells) if math.isfinite(s.value)]
    several = len({s.model for s in found if s.template is not None}) > 1
    lines = {s: " ".join(filter(None, [s.model if several else "", s.template])) or s.model for s in found}
    columns = ["model", "template", "strategy", "k", "label", figure, "low", "high", "n_seeds", "n_scored"]
    rows = [
        [s.model, s.template, lines[s], s.k, _label(s, lines[s]), s.value, s.low, s.high, s.n_seeds, s.n_scored]
        for s in found
    ]
    return [
        Chart(
            "against_k",
            "wandb/lineseries/v0",
            {"step": "k", "lineKey": "strategy", "lineVal": figure},
            {"title": f"{figure} against K, mean over seeds", "xname": "K"},
            columns,
            sorted((row for row, s in zip(rows, found, strict=True) if s.template is not None), key=lambda row: row[3]),
        ),
        Chart(
            "strategies",
            "wandb/bar/v0",
            {"label": "label", "value": figure},
            {"title": f"{figure} of each strategy, mean over seeds"},
            columns,
            rows,
        ),
        _every_cell(cells, figure),
        *_against_labels(figure, columns, rows),
    ]


def _against_labels(figure: str, columns: Sequence[str], rows: Sequence[list[Any]]) -> list[Chart]:
    """A line per classifier that the run trained, over labelled examples, prompts with K demonstrations at n = K, and
    the best prompt on the level it has; none where the run trained none."""
    trained = [row for row in rows if row[1] is None and row[3] is not None]
    prompts = [row for row in rows if row[1] is not None]
    if not trained:
        return []
    best = max(prompts, key=lambda row: row[5], default=None)
    level = [[*best[:2], BEST, n, *best[4:]] for n in sorted({row[3] for row in trained})] if best else []
    rows = [*trained, *(row for row in prompts if row[3]), *level]
    return [
        Chart(
            "against_labels",
            "wandb/lineseries/v0",
            {"step": "k", "lineKey": "strategy", "lineVal": figure},
            {"title": f"{figure} against labelled examples, mean over seeds", "xname": "labelled examples"},
            columns,
            sorted(rows, key=lambda row: row[3]),
        )
    ]


def _label(strategy: Strategy, line: str) -> str:
    if strategy.k is None:
        return line
    return f"{line} {'n' if strategy.template is None else 'K'}={strategy.k}"


def _every_cell(cells: pd.DataFrame, figure: str) -> Chart:
    low, high = interval_columns(figure)
    names = ["model", "template", "k", "seed", figure, low, high, "n_scored"]
    prompts = of_prompts(cells)
    scored = prompts.loc[prompts[figure].notna(), names]
    return Chart(
        "every_cell",
        "wandb/scatter/v0",
        {"x": "k", "y": figure},
        {"title": f"{figure} of every cell"},
        [*names[:5], "low", "high", "n_scored"],
        [list(row.values()) for row in scored.to_dict("records")],
    )
