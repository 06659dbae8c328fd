"""What finds the answer to a question in a text without a prompt, to stand beside prompts as a reference.

Knows questions and spans as plain data; refuses to know transformers, torch, tasks and where replicas run. Such engines
are found by name, see `harness.engine.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from harness.config.schema import ReferenceEntry
from harness.engine.protocol import EngineFacts, ModelDescription, OpenSettings


@dataclass(frozen=True)
class Question:
    """What is asked, and the text that holds the answer."""

    text: str
    context: str


@dataclass(frozen=True)
class Span:
    """A stretch of a context."""

    start: int
    """Of its characters in the context."""
    end: int
    """Behind the last one."""
    text: str
    score: float
    """Its probability, summed over the windows of the context that hold its text."""


@dataclass(frozen=True)
class Spans:
    """What a reader says of some questions, in their order.

    Attributes:
        best: of each question the likeliest spans, best first, at least one.
        n_tokens: `(n_questions,)` tokens of each question with its context, what windows share counted once per window.
        tokens_computed: tokens that went through the model, padding of batches included.
    """

    best: Sequence[Sequence[Span]]
    n_tokens: npt.NDArray[np.int64]
    tokens_computed: int


class LoadedReader(ABC):
    """One opened reader. Errors of one question may be raised for all that were asked together: they are halved."""

    facts: EngineFacts

    @abstractmethod
    def read(self, questions: Sequence[Question]) -> Spans:
        """The likeliest spans of each question's context.

        Args:
            questions: at least one.

        Raises:
            ContextError: a question leaves no room for its context.
            NotFiniteError: a probability is NaN.
            BrokenDeviceError: nothing can be computed in this process any more.
        """


class ReaderEngine(Protocol):
    """A way to read."""

    def describe(self, model: ReferenceEntry) -> ModelDescription:
        """Look at a reader; nothing is loaded but its tokenizer.

        Raises:
            ModelError: in one line, whatever is wrong with it.
        """
        ...

    def open(self, model: ReferenceEntry, settings: OpenSettings) -> LoadedReader:
        """Load a reader in this process.

        Raises:
            ModelError: it does not load, or lacks its head.
            BrokenDeviceError: the device is of no use to this process.
        """
        ...
