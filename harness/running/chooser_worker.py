"""Does work units of a chooser: it picks one of each sample's own choices.

Takes the steps of the worker it derives from; knows choosers, refuses to know templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.core.errors import EngineError, NotFiniteError
from harness.engine.choosing import Alternatives, Choices, LoadedChooser
from harness.engine.protocol import OpenSettings
from harness.engine.registry import find_chooser
from harness.planning.units import WorkUnit
from harness.results.schema import Record
from harness.running.reference_worker import Input, Questions, ReferenceWorker
from harness.running.work import Found


class ChooserWorker(ReferenceWorker):
    """One loaded chooser; built as `ReferenceWorker`."""

    def _open(self, settings: OpenSettings) -> Choosing:
        chooser = find_chooser(self.spec.model.engine).open(self.spec.model, settings)
        self.facts = chooser.facts
        return Choosing(chooser)

    def _records(self, unit: WorkUnit, found: Found) -> list[Record]:
        result: Choices = found.result
        columns = zip(found.prompts, result.logprobs, result.n_tokens.tolist(), strict=True)
        return [
            Record(
                unit.model, unit.task, None, one.k, unit.seed, one.sample.id, one.sample.gold, int(logprobs.argmax()),
                label_logprobs=logprobs.tolist(), n_prompt_tokens=n_tokens,
            )
            for one, logprobs, n_tokens in columns
        ]  # fmt: skip


class Choosing(Questions):
    """Asks a chooser, whose word is not taken for it."""

    def __init__(self, chooser: LoadedChooser) -> None:
        self.chooser = chooser

    def ask(self, inputs: Sequence[Input], prepared: Any = None) -> Choices:
        """The choices of some inputs.

        Raises:
            EngineError: the answer is not one per choice of each input.
            NotFiniteError: a log-probability is NaN or infinite.
        """
        asked = [Alternatives(one.texts, tuple(one.sample.choices)) for one in inputs]
        found = self.chooser.choose(asked)
        if [len(row) for row in found.logprobs] != [len(one.choices) for one in asked]:
            raise EngineError(f"the chooser gave {len(found.logprobs)} answers to {len(asked)} samples, not all whole")
        if not all(np.isfinite(row).all() for row in found.logprobs):
            raise NotFiniteError("the chooser gave log-probabilities that are NaN or infinite")
        return found
