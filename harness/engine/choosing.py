"""What picks one of a sample's own choices without a prompt, to stand beside prompts as a reference.

Knows texts and choices as plain data; refuses to know transformers, torch, tasks and where replicas run. Such engines
are found by name, see `harness.engine.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from harness.config.schema import ModelEntry
from harness.engine.classifying import Texts
from harness.engine.protocol import EngineFacts, ModelDescription, OpenSettings


@dataclass(frozen=True)
class Alternatives:
    """A text, or a pair of texts, and what may answer it."""

    texts: Texts
    choices: tuple[str, ...]


def paired(sample: Alternatives) -> list[Texts]:
    """The text with each choice, as two sequences; of a pair of texts the second stands before the choice."""
    first, *second = sample.texts
    return [(first, " ".join((*second, choice))) for choice in sample.choices]


@dataclass(frozen=True)
class Choices:
    """What a chooser says of some samples, in their order.

    Attributes:
        logprobs: per sample `(n_choices,)` log-probabilities, nats, in the order of its choices.
        n_tokens: `(n_samples,)` tokens of each sample, those of every choice with its text together.
        tokens_computed: tokens that went through the model, padding of batches included.
    """

    logprobs: Sequence[npt.NDArray[np.float64]]
    n_tokens: npt.NDArray[np.int64]
    tokens_computed: int


class LoadedChooser(ABC):
    """One opened chooser. Errors of one sample may be raised for all that were asked together: they are halved."""

    facts: EngineFacts

    @abstractmethod
    def choose(self, samples: Sequence[Alternatives]) -> Choices:
        """Log-probabilities of the choices of each sample.

        Args:
            samples: at least one.

        Raises:
            NotFiniteError: a log-probability is NaN or infinite.
            BrokenDeviceError: nothing can be computed in this process any more.
        """


class ChooserEngine(Protocol):
    """A way to choose."""

    def describe(self, model: ModelEntry) -> ModelDescription:
        """Look at a chooser; nothing is loaded but its tokenizer.

        Raises:
            ModelError: in one line, whatever is wrong with it.
        """
        ...

    def open(self, model: ModelEntry, settings: OpenSettings) -> LoadedChooser:
        """Load a chooser in this process.

        Raises:
            ModelError: it does not load, or lacks its head.
            BrokenDeviceError: the device is of no use to this process.
        """
        ...
