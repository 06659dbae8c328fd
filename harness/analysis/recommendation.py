"""Which strategy a comparison says to use, which others may be as good, and the cheapest of these.

Knows a comparison that is made; refuses to estimate anything and to know how it is shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.analysis.compare import Comparison

SHARES = {
    10: "a tenth of",
    20: "a fifth of",
    25: "a quarter of",
    33: "a third of",
    50: "half",
    67: "two thirds of",
    75: "three quarters of",
}
"""Shares in per cent that have a word."""


@dataclass(frozen=True)
class Recommendation:
    """What to use, by the names that `compare` gives strategies."""

    best: str
    """The highest score. It was chosen for it: `Comparison.selection` has what to expect of it."""
    as_good: tuple[str, ...]
    """Others that may be the best, best first; the truly best is one of these or `best` with the comparison's level."""
    cheapest: str | None
    """The one of `as_good` with the fewest tokens a prompt, the first of equals; None where none has fewer than
    `best`."""
    token_share: float | None
    """Tokens of its prompts, as a share of those of `best`, 0..1; None without `cheapest`."""
    all_have_tokens: bool = True
    """Whether every strategy of `as_good` is a prompt whose tokens are known; references are none."""


def recommend(comparison: Comparison) -> Recommendation:
    """What a comparison says to use.

    Args:
        comparison: from `harness.analysis.compare.compare`, by a metric of which more is better.

    Raises:
        ValueError: of the metric more is not better, so that the highest is not the best.
    """
    if not comparison.settings["is_quality"]:
        raise ValueError(f"the highest {comparison.settings['metric']} is no recommendation")
    rows = comparison.strategies
    best = rows[rows["is_best"]].iloc[0]
    others = rows[rows["may_be_best"] & ~rows["is_best"]]
    cheaper = others[others["tokens"] < best["tokens"]]
    cheapest = None if cheaper.empty else cheaper.loc[cheaper["tokens"].idxmin()]
    return Recommendation(
        best=str(best["label"]),
        as_good=tuple(others["label"]),
        cheapest=None if cheapest is None else str(cheapest["label"]),
        token_share=None if cheapest is None else float(cheapest["tokens"] / best["tokens"]),
        all_have_tokens=bool(others["tokens"].notna().all()),
    )


def sentences(found: Recommendation) -> tuple[str, str]:
    """What to use, and what else may do.

    Returns:
        Two sentences, such as `Use long K=8.` and `3 others may be as good; the cheapest of them is short K=0, at a
        third of the tokens.`
    """
    return f"Use {found.best}.", _others(found)


def _others(found: Recommendation) -> str:
    saving = "" if found.token_share is None else f", at {_share(found.token_share)} the tokens"
    if not found.as_good:
        return "No other may be as good."
    if len(found.as_good) == 1:
        return f"One other may be as good: {found.as_good[0]}{saving}."
    count = f"{len(found.as_good):,} others may be as good"
    if found.cheapest is None:
        return f"{count}."
    which = "the cheapest of them" if found.all_have_tokens else "the cheapest prompt of them"
    return f"{count}; {which} is {found.cheapest}{saving}."


def _share(share: float) -> str:
    """A share below 1 before `the tokens`: in a word where per cent round to one, never rounded to none or all."""
    percent = min(max(math.floor(100 * share + 0.5), 1), 99)
    return SHARES.get(percent, f"{percent}% of")
