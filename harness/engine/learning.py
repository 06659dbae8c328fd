"""What learns to classify from labelled examples: the other side of a learning curve.

Knows examples as plain data; refuses to know tasks, torch and where replicas run. Learners are found by name, see
`harness.engine.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.config.schema import ModelEntry
from harness.engine.classifying import LoadedClassifier, Texts
from harness.engine.protocol import EngineFacts, ModelDescription, OpenSettings


@dataclass(frozen=True)
class Example:
    """A labelled text, or pair of texts."""

    texts: Texts
    gold: int
    """Its class."""


@dataclass(frozen=True)
class Lesson:
    """What is learned from, and how."""

    train: Sequence[Example]
    held_out: Sequence[Example]
    """Labelled too, to tell when to stop; a learner that needs none learns from all."""
    n_classes: int
    seed: int
    learning_rate: float
    """The highest."""
    folder: Path
    """For what is to be found again when training was cut off; nothing else writes there meanwhile."""

    @property
    def examples(self) -> Sequence[Example]:
        """All of them."""
        return [*self.train, *self.held_out]


class Learner(ABC):
    """What learns, with all that is loaded once."""

    facts: EngineFacts

    @abstractmethod
    def learn(self, lesson: Lesson) -> LoadedClassifier:
        """A classifier of this lesson; its labels are the classes in their order. The same lesson gives the same.

        Raises:
            BrokenDeviceError: nothing can be computed in this process any more.
        """


class LearnerEngine(Protocol):
    """A way to learn."""

    needs_base: bool
    """Whether it begins with a pre-trained encoder."""

    def describe(self, base: ModelEntry) -> ModelDescription:
        """Look at what it begins with; a learner that needs no base looks at nothing.

        Raises:
            ModelError: it is no encoder.
        """
        ...

    def open(self, base: ModelEntry, settings: OpenSettings) -> Learner:
        """Make ready to learn.

        Raises:
            ModelError: the base does not load.
        """
        ...
