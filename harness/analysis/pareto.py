"""Which strategies no other beats in score without costing more.

Source: Pareto 1906; see Deb 2001, Multi-Objective Optimization using Evolutionary Algorithms, section 2.4.
"""

from __future__ import annotations

import numpy as np

from harness.analysis.table import BoolArray, FloatArray


def pareto_front(costs: FloatArray, scores: FloatArray) -> BoolArray:
    """Strategies with no other that costs at most as much and scores at least as much, one of the two strictly.

    Args:
        costs: one per strategy, less is better; NaN is never on the front.
        scores: of the same, more is better; NaN likewise.

    Returns:
        Whether each is on the front; of equal ones all are.
    """
    known = np.isfinite(costs) & np.isfinite(scores)
    front = np.zeros(len(costs), dtype=bool)
    most, at = -np.inf, np.inf
    order = np.lexsort((-scores, costs))
    for place in order[known[order]]:
        if scores[place] > most:
            most, at = scores[place], costs[place]
            front[place] = True
        elif scores[place] == most and costs[place] == at:
            front[place] = True
    return front
