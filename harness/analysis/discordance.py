"""Pairs of right and wrong on independent samples: how sure their difference is.

Only the discordant pairs, in which exactly one of the two is right, say anything about it.
"""

from __future__ import annotations

import math

import scipy


def score_interval(more: int, fewer: int, n: int, level: float) -> tuple[float, float]:
    """Tango's score interval of a difference of paired proportions; (nan, nan) without pairs.

    All differences d that the score test does not reject: |more - fewer - n d| at most z times
    sqrt(n (2 q + d (1 - d))), where q is the most likely chance of a `fewer` pair given d. Source:
    Tango 1998, Statistics in Medicine 17(8).

    Args:
        more: pairs in which only the first is right.
        fewer: pairs in which only the second is right.
        n: all pairs.
        level: of the interval, 0..1.
    """
    if n == 0:
        return math.nan, math.nan
    z = float(scipy.special.ndtri((1 + level) / 2))
    return -_upper(fewer, more, n, z), _upper(more, fewer, n, z)


def _upper(more: int, fewer: int, n: int, z: float) -> float:
    """The highest difference that is not rejected."""
    seen = (more - fewer) / n

    def excess(d: float) -> float:
        return n * d - (more - fewer) - z * math.sqrt(n * (2 * _fewer_chance(more, fewer, n, d) + d * (1 - d)))

    if seen == 1:
        return 1.0
    # Without discordant pairs the difference that was seen is a root, too; not the one looked for.
    return float(scipy.optimize.brentq(excess, seen + 1e-9, 1.0, xtol=1e-12))


def _fewer_chance(more: int, fewer: int, n: int, d: float) -> float:
    """The most likely chance of a `fewer` pair when the difference is d."""
    b = (2 * n - more + fewer) * d - more - fewer
    return max((math.sqrt(max(b * b + 8 * n * fewer * d * (1 - d), 0)) - b) / (4 * n), 0.0)
