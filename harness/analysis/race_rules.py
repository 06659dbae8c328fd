"""What a race claims and how sure, when it decides, and what it says of each round."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FIRST_ROUND = 32
GROWTH = 1.2
LEAST_ROUND = 10


class Ending(StrEnum):
    """Why a race is over."""

    ONE_LEFT = "one left"
    """All other strategies are dropped."""
    CERTIFIED = "certified"
    """No strategy that is left beats the candidate by more than epsilon."""
    EXHAUSTED = "exhausted"
    """All samples are used."""


@dataclass(frozen=True)
class Rules:
    """What a race claims, and how sure."""

    epsilon: float = 0.01
    """In units of the score; 0 asks for the full grid's winner itself."""
    confidence: float = 0.95

    @property
    def drop_error(self) -> float:
        """The probability that the best of the grid is ever dropped is at most this."""
        return (1 - self.confidence) * (0.5 if self.epsilon else 1.0)

    @property
    def rest_error(self) -> float:
        """The probability that a certificate is ever false is at most this; 0 where none is given."""
        return (1 - self.confidence) / 2 if self.epsilon else 0.0


@dataclass(frozen=True)
class Round:
    """What was decided after a round."""

    step: int
    """Steps that the strategies in the race have been scored on."""
    leader: int
    candidate: int
    dropped: tuple[int, ...]
    """In this round."""
    resting: tuple[int, ...]
    """After it."""
    caught_up: tuple[int, ...]
    """Strategies that were scored in this round on what they had missed."""
    epsilon: float | None
    """The smallest one that is certified for the candidate so far."""


def round_ends(n_steps: int) -> list[int]:
    """Steps after which decisions are taken: 32, then a fifth more each time."""
    ends, end = [], 0
    while end < n_steps:
        size = FIRST_ROUND if not end else max(LEAST_ROUND, int((GROWTH - 1) * end))
        end = min(n_steps, end + size)
        ends.append(end)
    return ends
