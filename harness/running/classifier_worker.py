"""Does work units of a classifier: it says which of the task's classes each sample is.

Knows classifiers and the order of their classes; refuses to know templates.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.core.errors import EngineError, NotFiniteError
from harness.engine.classifying import Classes, LoadedClassifier
from harness.engine.protocol import OpenSettings
from harness.engine.registry import find_classifier
from harness.planning.units import WorkUnit
from harness.results.schema import Record
from harness.running.class_order import class_order
from harness.running.reference_worker import FieldsWorker, Input, Questions, ReferenceWorker
from harness.running.work import Found

log = logging.getLogger(__name__)


class ClassesWorker(FieldsWorker):
    """What asks a classifier.

    Attributes:
        order: the task's class of each of its labels.
    """

    order: np.ndarray[Any, np.dtype[np.int64]]

    def _records(self, unit: WorkUnit, found: Found) -> list[Record]:
        result: Classes = found.result
        # The first of equals in the classifier's own order, as transformers takes it.
        predictions = self.order[result.logprobs.argmax(1)].tolist()
        by_class = np.empty_like(result.logprobs)
        by_class[:, self.order] = result.logprobs
        columns = zip(found.prompts, predictions, by_class.tolist(), result.n_tokens.tolist(), strict=True)
        return [
            Record(
                unit.model, unit.task, None, one.k, unit.seed, one.sample.id, one.sample.gold, prediction,
                label_logprobs=logprobs, n_prompt_tokens=n_tokens or None,
            )
            for one, prediction, logprobs, n_tokens in columns
        ]  # fmt: skip


class ClassifierWorker(ReferenceWorker, ClassesWorker):
    """One loaded classifier; built as `ReferenceWorker`.

    Raises:
        ModelError: it does not load, or its classes are not the task's.
    """

    def _open(self, settings: OpenSettings) -> Classification:
        classifier = find_classifier(self.spec.model.engine).open(self.spec.model, settings)
        self.facts = classifier.facts
        asking = Classification(classifier, len(self.reference.labels))
        self.order = np.array(self._told_order(asking))
        return asking

    def _told_order(self, asking: Classification) -> tuple[int, ...]:
        rows = self.draw.pool.samples
        found = asking.ask([self._input(row, None) for row in rows])
        gold = np.array([row.gold for row in rows])
        name, reference = self.spec.model.name, self.reference
        order, note = class_order(name, reference.labels, reference.order, gold, found.logprobs.argmax(1))
        if note:
            log.warning("reference %s: %s", name, note)
        return order


class Classification(Questions):
    """Asks a classifier, whose word is not taken for it.

    Args:
        classifier: that is asked; None before it has learned.
        n_labels: that it should tell apart.
    """

    def __init__(self, classifier: LoadedClassifier | None, n_labels: int) -> None:
        self.classifier, self.n_labels = classifier, n_labels

    def ask(self, inputs: Sequence[Input], prepared: Any = None) -> Classes:
        """The classes of some inputs.

        Raises:
            EngineError: the answer is not one per input, or a log-probability is no finite number.
        """
        assert self.classifier is not None, "it has learned"
        found = self.classifier.classify([one.texts for one in inputs])
        if found.logprobs.shape != (len(inputs), self.n_labels) or found.n_tokens.shape != (len(inputs),):
            shapes = found.logprobs.shape, found.n_tokens.shape
            raise EngineError(f"the classifier gave arrays of shapes {shapes} to {len(inputs)} texts")
        if not np.isfinite(found.logprobs).all():
            raise NotFiniteError("the classifier gave log-probabilities that are NaN or infinite")
        return found
