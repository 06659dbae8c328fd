"""What to do when something fails: pure decisions, carried out by the dispatch loop."""

from __future__ import annotations

from enum import Enum, auto

MOST_ATTEMPTS = 4
"""Times one unit may be tried before the run stops with its cause."""
MOST_IDLE_DEATHS = 5
"""Deaths of replicas in a row, with no unit finished between them, before the run stops."""


class Decision(Enum):
    """What the dispatch loop does with a unit that did not finish."""

    RETRY = auto()
    STOP = auto()


def after_replica_death(attempts: int, deaths_without_progress: int) -> Decision:
    """A replica died while it held a unit.

    Args:
        attempts: times the unit has been running when something failed, this time included.
        deaths_without_progress: deaths since a unit last finished.
    """
    if attempts >= MOST_ATTEMPTS or deaths_without_progress >= MOST_IDLE_DEATHS:
        return Decision.STOP
    return Decision.RETRY


def after_unit_error(attempts: int) -> Decision:
    """A unit raised outside of scoring, where samples are isolated: storage, a bug."""
    return Decision.RETRY if attempts < MOST_ATTEMPTS else Decision.STOP
