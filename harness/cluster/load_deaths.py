"""Processes that die while they load a model, counted by node: when to go on without the node.

Knows what others do to processes; refuses to know Ray.
"""

from __future__ import annotations

from collections import Counter

from harness.results.quarantine import Ending

MOST = 3
"""Deaths in a row on one node where the model has never loaded, or for want of memory or a device."""
MOST_WHERE_IT_LOADED = 10
"""Where the model has loaded before: there a process that is gone was ended from outside."""


class LoadDeaths:
    """Deaths while loading, in a row on each node."""

    def __init__(self) -> None:
        self._in_a_row: Counter[tuple[str, bool]] = Counter()
        self._loaded: set[str] = set()

    def loaded(self, node: str) -> None:
        """A process has loaded the model there."""
        self._loaded.add(node)
        for from_outside in (False, True):
            self._in_a_row.pop((node, from_outside), None)

    def died(self, node: str, ending: Ending | None) -> int | None:
        """Count one.

        Args:
            node: where it happened.
            ending: of the process; None where it lives and its device is broken.

        Returns:
            Deaths in a row there, where they are enough to avoid the node.
        """
        from_outside = node in self._loaded and ending is Ending.DIED
        self._in_a_row[node, from_outside] += 1
        times = self._in_a_row[node, from_outside]
        return times if times >= (MOST_WHERE_IT_LOADED if from_outside else MOST) else None
