"""What to do when something fails or drags on: pure decisions, carried out by the dispatch loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from statistics import median

from harness.core.errors import ModelError, NotFiniteError

Failure = tuple[str | None, str | None]

MOST_ATTEMPTS = 4
"""Times one unit may raise before the run stops with its cause."""
MOST_IDLE_DEATHS = 5
"""Deaths of replicas in a row, with nothing finished or learnt between them, before the run stops.
Replicas that die together, as with their node, are one death: see `dispatch`."""
MOST_QUARANTINED = 8
"""Samples of one unit that may be quarantined before the run stops."""
HANG_FACTOR = 20.0
"""A unit, or a sample by itself, hangs that takes so many times what the slowest unit took for as many samples."""
HANG_FIRST_FACTOR = 6.0
"""As long as nobody knows how long units take: so many times the least limit."""
STRAGGLER_FACTOR = 3.0
STRAGGLER_LEAST_S = 20.0
"""A unit that runs for longer than both this and the factor times the median is given to another too."""


class Decision(Enum):
    """What the dispatch loop does with a unit that did not finish."""

    RETRY = auto()
    """As it was."""
    CAREFUL = auto()
    """Sample by sample, noting each before it is tried."""
    QUARANTINE = auto()
    """The sample that was noted last is recorded as failed in all units, and tried no more."""
    STOP = auto()


def after_replica_death(unit_deaths: int, is_out: bool, quarantined: int, deaths_without_progress: int) -> Decision:
    """A replica died while it held a unit.

    Args:
        unit_deaths: deaths in this unit, this one included; 0 when it died along with another.
        is_out: whether the sample that was being tried by itself has ended processes enough.
        quarantined: samples of the unit that are quarantined already.
        deaths_without_progress: deaths since a unit finished or a sample was quarantined.
    """
    if is_out:
        return Decision.QUARANTINE if quarantined < MOST_QUARANTINED else Decision.STOP
    if deaths_without_progress >= MOST_IDLE_DEATHS:
        return Decision.STOP
    return Decision.CAREFUL if unit_deaths else Decision.RETRY


def after_unit_error(attempts: int) -> Decision:
    """A unit raised outside of scoring, where samples are isolated: storage, a bug."""
    return Decision.RETRY if attempts < MOST_ATTEMPTS else Decision.STOP


def check_usable(model: str, failures: Sequence[Failure], n_records: int) -> None:
    """Refuse a model that has given no number so far: its first unit failed sample by sample for that alone.

    Args:
        model: its path.
        failures: error type and text of the unit's failed records.
        n_records: records of the unit.

    Raises:
        ModelError: every record failed because its results were NaN or infinite.
    """
    if n_records and len(failures) == n_records and all(kind == NotFiniteError.__name__ for kind, _ in failures):
        raise ModelError(
            f"model '{model}' scores nothing, all {n_records} records of its first unit fail: {failures[0][1]}"
        )


@dataclass
class Pace:
    """How long samples take, and from when on one hangs.

    Args:
        least_s: seconds that a unit, or a sample by itself, may take in any case; 0 for no limit at all.
    """

    least_s: float
    slowest_s: float | None = None
    """Per sample, of the slowest unit so far."""

    def learn(self, seconds: float, n_samples: int) -> None:
        """A unit of so many samples took so long."""
        self.slowest_s = max(self.slowest_s or 0.0, seconds / max(1, n_samples))

    def limit_s(self, n_samples: int) -> float:
        """Seconds after which a unit of so many samples hangs; one sample is one that is tried by itself."""
        if not self.least_s:
            return math.inf
        if self.slowest_s is not None:
            return max(self.least_s, HANG_FACTOR * self.slowest_s * n_samples)
        return self.least_s * (HANG_FIRST_FACTOR if n_samples > 1 else 1.0)


def is_straggler(age_s: float, finished_s: Sequence[float]) -> bool:
    """Whether a running unit takes suspiciously long.

    Args:
        age_s: how long it has been running.
        finished_s: how long finished units took.
    """
    return bool(finished_s) and age_s > max(STRAGGLER_LEAST_S, STRAGGLER_FACTOR * median(finished_s))
