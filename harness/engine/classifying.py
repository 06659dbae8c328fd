"""What classifies texts without a prompt, to stand beside prompts as a reference.

Knows texts and classes as plain data; refuses to know transformers, torch, tasks and where replicas run. Such engines
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
from harness.engine.protocol import EngineFacts, ModelDescription, OpenSettings

Texts = tuple[str, ...]
"""One text, or a pair of texts."""


@dataclass(frozen=True)
class Classes:
    """What a classifier says of some texts, in their order.

    Attributes:
        logprobs: `(n_texts, n_labels)` log-probabilities, nats; labels in the classifier's own order.
        n_tokens: `(n_texts,)` tokens of each input, as it was read.
        tokens_computed: tokens that went through the model, padding of batches included.
    """

    logprobs: npt.NDArray[np.float64]
    n_tokens: npt.NDArray[np.int64]
    tokens_computed: int


@dataclass(frozen=True)
class ClassifierDescription(ModelDescription):
    """What is known of a classifier before it is loaded."""

    labels: tuple[str, ...] = ()
    """Names of its classes, in its own order."""


class LoadedClassifier(ABC):
    """One opened classifier. Errors of one text may be raised for all that were asked together: they are halved."""

    facts: EngineFacts

    @abstractmethod
    def classify(self, texts: Sequence[Texts]) -> Classes:
        """Log-probabilities of the classes of each text.

        Args:
            texts: at least one; all single, or all pairs.

        Raises:
            NotFiniteError: a log-probability is NaN or infinite.
            BrokenDeviceError: nothing can be computed in this process any more.
        """


class ClassifierEngine(Protocol):
    """A way to classify."""

    def describe(self, model: ModelEntry) -> ClassifierDescription:
        """Look at a classifier; nothing is loaded but its tokenizer.

        Raises:
            ModelError: in one line, whatever is wrong with it.
        """
        ...

    def open(self, model: ModelEntry, settings: OpenSettings) -> LoadedClassifier:
        """Load a classifier in this process.

        Raises:
            ModelError: it does not load, or lacks its head.
            BrokenDeviceError: the device is of no use to this process.
        """
        ...
