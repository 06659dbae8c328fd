"""What a table of cells shows that something is wrong with a prompt or with the scoring, in one line each.

Knows figures of cells; refuses to know where records lie. A line is about the prompt, not about how sure a figure is.
"""

from __future__ import annotations

import pandas as pd

from harness.analysis.answer_figures import NO_LABEL, UNASKED_REASONING
from harness.analysis.cells import of_prompts
from harness.analysis.named_answers import NOT_FOUND

MOST_OFF_LABEL = 0.5
"""Mean share of the probability beside the labels from which on labels are not what the model would answer."""
SHARES = (
    (NO_LABEL, 0.05, "{} of the answers are no label, which counts as wrong: {}"),
    (
        UNASKED_REASONING,
        0.0,
        "{} of the answers begin with the model's reasoning, which counts as the answer though no template asks for "
        "it: {}; see `thinking: on`",
    ),
    (NOT_FOUND, 0.05, "scoring.extract finds nothing in {} of the answers, which counts as wrong: {}"),
    ("empty_share", 0.1, "{} of the answers are empty: {}"),
    ("truncated_share", 0.1, "{} of the answers are cut off at generation.max_new_tokens: {}"),
)
"""Figures of what was written, from where on they are said, and how."""
LEAST_SCORED = 30
"""Samples of a cell under which a majority, or one class for all, may be chance."""
MOST_NAMED = 3
"""Cells that a line names; it counts the others."""


def cautions(cells: pd.DataFrame, majority: float) -> list[str]:
    """Lines for the foot of a table.

    Args:
        cells: as `analysis.cells.cell_figures` gives them.
        majority: share of the most frequent class among the samples, in 0..1; NaN where samples have no classes in
            common.
    """
    if "template" not in cells:
        return []
    prompts = of_prompts(cells)
    prompts = prompts[~((prompts["k"] == 0) & prompts.duplicated(["model", "template", "k"]))]
    several = prompts["model"].nunique() > 1
    lines = [line for line in (_of_share(prompts, several, *one) for one in SHARES) if line]
    return [f"- {line}" for line in [*lines, *(_of_classes(prompts, several, majority) if "accuracy" in cells else [])]]


def _of_share(prompts: pd.DataFrame, several: bool, name: str, most: float, words: str) -> str:
    """The cells of which a share is above a limit, the largest first; an empty text where there are none."""
    high = prompts[prompts[name] > most] if name in prompts else prompts.iloc[:0]
    if high.empty:
        return ""
    high = high.sort_values(name, ascending=False)
    return words.format(f"{high[name].iloc[0]:.1%}", _names(high, several))


def _of_classes(prompts: pd.DataFrame, several: bool, majority: float) -> list[str]:
    off = prompts[prompts["off_label_mass"] > MOST_OFF_LABEL]
    lines = []
    if len(off):
        off = off.sort_values("off_label_mass", ascending=False)
        lines.append(
            f"the model does not know what to answer: {off['off_label_mass'].iloc[0]:.1%} of its probability lies "
            f"outside the labels of {_names(off, several)}"
        )
    large = prompts[prompts["n_scored"] >= LEAST_SCORED]
    large = large[large[NO_LABEL] != 1] if NO_LABEL in large else large
    shares = large["predicted_positive_share"]
    if len(one := large[(shares == 0) | (shares == 1)]):
        lines.append(f"one class for every sample: {_names(one, several)}")
    low = large[(large["accuracy"] <= majority) & ~large.index.isin(one.index)]
    if len(low):
        lines.append(f"no better than always the most frequent class ({majority:.4f}): {_names(low, several)}")
    return lines


def _names(cells: pd.DataFrame, several: bool) -> str:
    """Cells by name, the first few; with their models where there are several."""
    labels = [
        f"{row.model} {row.template} K={row.k}" if several else f"{row.template} K={row.k}"
        for row in cells.itertuples()
    ]
    names = list(dict.fromkeys(labels))
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
