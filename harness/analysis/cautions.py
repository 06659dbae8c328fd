"""What a table of cells shows that something is wrong with a prompt or with the scoring, in one line each.

Knows figures of cells; refuses to know where records lie. A line is about the prompt, not about how sure a figure is.
"""

from __future__ import annotations

import pandas as pd

from harness.analysis.cells import of_prompts

MOST_OFF_LABEL = 0.5
"""Mean share of the probability beside the labels from which on labels are not what the model would answer."""
LEAST_SCORED = 30
"""Samples of a cell under which a majority, or one class for all, may be chance."""
MOST_NAMED = 3
"""Cells that a line names; it counts the others."""


def cautions(cells: pd.DataFrame, majority: float) -> list[str]:
    """Lines for the foot of a table of classes; none for answers.

    Args:
        cells: as `analysis.cells.cell_figures` gives them.
        majority: share of the most frequent class among the samples, in 0..1; NaN where samples have no classes in
            common.
    """
    if "accuracy" not in cells:
        return []
    prompts = of_prompts(cells)
    prompts = prompts[~((prompts["k"] == 0) & prompts.duplicated(["model", "template", "k"]))]
    several = prompts["model"].nunique() > 1
    off = prompts[prompts["off_label_mass"] > MOST_OFF_LABEL]
    lines = []
    if len(off):
        off = off.sort_values("off_label_mass", ascending=False)
        lines.append(
            f"the model does not know what to answer: {off['off_label_mass'].iloc[0]:.1%} of its probability lies "
            f"outside the labels of {_names(off, several)}"
        )
    large = prompts[prompts["n_scored"] >= LEAST_SCORED]
    shares = large["predicted_positive_share"]
    if len(one := large[(shares == 0) | (shares == 1)]):
        lines.append(f"one class for every sample: {_names(one, several)}")
    low = large[(large["accuracy"] <= majority) & ~large.index.isin(one.index)]
    if len(low):
        lines.append(f"no better than always the most frequent class ({majority:.4f}): {_names(low, several)}")
    return [f"- {line}" for line in lines]


def _names(cells: pd.DataFrame, several: bool) -> str:
    """Cells by name, the first few; with their models where there are several."""
    labels = [
        f"{row.model} {row.template} K={row.k}" if several else f"{row.template} K={row.k}"
        for row in cells.itertuples()
    ]
    names = list(dict.fromkeys(labels))
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
