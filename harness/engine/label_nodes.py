"""Labels as a tree of tokens: what must be known of which continuation to score all labels of a prompt.

For engines that say the log-probability of any token behind some ids. Plain data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Node = tuple[int, ...]
"""The beginning of a label; empty where the prompt ends."""


def nodes_of(labels: Sequence[Sequence[int]]) -> dict[Node, list[int]]:
    """Each distinct beginning of a label, and the tokens that follow it in some label, each once."""
    wanted: dict[Node, list[int]] = {}
    for label in labels:
        for place, token in enumerate(label):
            after = wanted.setdefault(tuple(label[:place]), [])
            if token not in after:
                after.append(token)
    return wanted


def label_logprobs(labels: Sequence[Sequence[int]], found: Mapping[Node, Mapping[int, float]]) -> tuple[float, ...]:
    """Sum of each label's token log-probabilities, nats.

    Args:
        labels: token ids of each.
        found: for each node, the log-probability of each token that follows it.
    """
    return tuple(sum(found[tuple(label[:place])][token] for place, token in enumerate(label)) for label in labels)


def mass_outside(first: Mapping[int, float]) -> float:
    """Probability outside some tokens, given the log-probability of each."""
    return max(0.0, 1.0 - sum(map(math.exp, first.values())))
