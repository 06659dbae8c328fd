"""What holds of a comparison in words: what it is about, what it takes for granted, what could make it wrong.

Knows strategies and which samples they were scored on; refuses to know figures and where records lie.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.analysis.cells import of_prompts
from harness.analysis.failures import failures
from harness.analysis.strategies import THIS_DRAW, Strategies
from harness.analysis.table import BoolArray


def scope_of(strategies: Strategies, best: int, cells: pd.DataFrame, fixed_seeds: bool) -> str:
    """What the figure of the best is about: samples, and draws of demonstrations where several were averaged."""
    seeds = len(strategies.seeds)
    if best in strategies.references:
        return "new samples"
    if seeds > 1 and not fixed_seeds:
        return "new samples and new draws of demonstrations"
    if seeds > 1:
        return f"new samples, for these {seeds} draws of demonstrations"
    level = strategies.levels.iloc[best]
    drawn = level["k"] > 0 if "k" in level else bool((of_prompts(cells)["k"] > 0).any())
    return "new samples, for this draw of demonstrations" if drawn else "new samples"


def notes_on(strategies: Strategies, cells: pd.DataFrame, seeds_as: str) -> tuple[str, ...]:
    """What the intervals and tests of the strategies take for granted.

    Args:
        strategies: with their seeds as drawn.
        cells: that they are made of.
        seeds_as: one of `compare.SEEDS`.
    """
    notes = list(strategies.notes)
    n = strategies.values.shape[-1]
    if strategies.clusters is not None:
        notes.append(
            f"{n} samples in {len(np.unique(strategies.clusters))} clusters: intervals and tests are by cluster"
        )
    seeds = len(strategies.seeds)
    if seeds > 1 and seeds_as == "fixed":
        notes.append(f"{seeds} seeds averaged; conclusions hold for these seeds only")
    elif seeds > 1:
        notes.append(f"{seeds} seeds averaged, as drawn at random: intervals and tests include their variance")
        if seeds_as == "pooled":
            notes.append(
                "pooled: the seeds' part of every difference is that of all strategies together, which holds if draws "
                "of demonstrations move all of them equally much; means and the figure of the best do not use it"
            )
        elif seeds < 5:
            notes.append(
                f"{seeds} seeds say little about seeds at large: {_conservative(seeds)} "
                "Run 5 or more, take all strategies together (--seeds pooled) or limit to these (--seeds fixed)"
            )
    if "batch" in set(cells["calibration"]):
        notes.append("+batch uses the other test samples (not their labels), so it cannot judge a single sample")
    if strategies.is_one_draw:
        several = cells["seed"].nunique() > 1
        how = "average the draws: --by template,k" if several else "run more (grid.seeds=[1,2,3,4,5]), --by template,k"
        notes.append(
            f"{THIS_DRAW}. Another may turn a verdict round, however small p is; for templates and K at large, {how}"
        )
    return tuple(notes)


def notes_on_missing(strategies: Strategies, samples: BoolArray, ranked: BoolArray) -> list[str]:
    """Which samples means are over where not all strategies have all samples.

    Args:
        strategies: all.
        samples: (samples,) those that all ranked strategies have.
        ranked: (strategies,) those that are ranked.
    """
    missing = int((~strategies.scored).any(axis=1).sum())
    if not missing:
        return []
    lack = "1 strategy lacks" if missing == 1 else f"{missing} strategies lack"
    notes = [
        f"{lack} samples: means and the best are over the {int(samples.sum())} that all have, each pair over those "
        "that both have"
    ]
    left_out = [label for label, is_ranked in zip(strategies.labels, ranked, strict=True) if not is_ranked]
    if left_out:
        notes.append(f"too few samples in common with the others to be ranked: {', '.join(left_out)}")
    return notes


def warnings_on(strategies: Strategies, best: int) -> tuple[str, ...]:
    """That failure rates differ, and what that could hide."""
    known = strategies.values[np.isfinite(strategies.values)]
    found = failures(strategies, best)
    if found is None:
        return ()
    least, most = int(np.nanargmin(found.shares)), int(np.nanargmax(found.shares))
    labels = strategies.labels
    text = (
        f"failure rates differ, from {found.shares[least]:.1%} ({labels[least]}) to {found.shares[most]:.1%} "
        f"({labels[most]}), and what fails is seldom random"
    )
    if known.min() >= 0 and known.max() <= 1 and np.isfinite(found.lead):
        place = "ahead of" if found.lead > 0 else "behind"
        text += (
            f": if every failure of {labels[best]} were wrong and of {labels[found.rival]} right, the latter would be "
            f"{abs(found.lead):.4f} {place} the best"
        )
    return (text,)


def _conservative(seeds: int) -> str:
    if seeds == 2:
        return "intervals hold the truth in 95 to 99.5% of cases, and tests rarely tell two apart."
    return "tests rarely tell two apart where seeds hardly matter."
