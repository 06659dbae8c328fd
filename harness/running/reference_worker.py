"""Does work units of a reference: a classifier reads the samples themselves, without any prompt.

Takes the same three steps as the worker it derives from; knows classifiers, refuses to know templates.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.core.errors import EngineError, NotFiniteError
from harness.core.task import Sample
from harness.engine.classifying import Classes, LoadedClassifier, Texts
from harness.engine.registry import find_classifier
from harness.planning.units import WorkUnit
from harness.prompts.demonstrations import PoolDraw
from harness.results.schema import Record
from harness.running.asking import open_settings
from harness.running.class_order import class_order
from harness.running.messages import WorkerSpec
from harness.running.work import Found, Work
from harness.running.worker import UnitWorker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Input:
    """What a classifier reads of one sample, in the place of a prompt."""

    sample: Sample
    k: int | None
    texts: Texts


class ReferenceWorker(UnitWorker):
    """One loaded classifier that does work units.

    Args:
        spec: the run's settings, `reference` among them.
        draw: labelled rows of the pool, on which the order of its classes is checked.

    Raises:
        ModelError: it does not load, or its classes are not the task's.
        BrokenDeviceError: the device is of no use to this process.
    """

    def __init__(self, spec: WorkerSpec, draw: PoolDraw) -> None:
        assert spec.reference is not None
        self._take(spec, draw)
        self.reference = spec.reference
        self.fields = spec.reference.fields
        settings = open_settings(spec.config.engine, spec.longest_prompt, threads=spec.threads)
        classifier = find_classifier(spec.model.engine).open(spec.model, settings)
        self.facts = classifier.facts
        self.asking = Classification(classifier, len(self.reference.labels))
        self._order = np.array(self._told_order())

    def _told_order(self) -> tuple[int, ...]:
        rows = self.draw.pool.samples
        found: Classes = self.asking.ask([self._input(row, None) for row in rows])
        gold = np.array([row.gold for row in rows])
        name, reference = self.spec.model.name, self.reference
        order, note = class_order(name, reference.labels, reference.order, gold, found.logprobs.argmax(1))
        if note:
            log.warning("reference %s: %s", name, note)
        return order

    def _input(self, sample: Sample, k: int | None) -> Input:
        return Input(sample, k, tuple(sample.fields[name] for name in self.fields))

    def _prompts(self, work: Work, samples: Sequence[Sample], ks: Sequence[int | None]) -> list[Input]:
        return [self._input(sample, k) for sample in samples for k in ks]

    def _n_tokens(self, found: Found) -> int:
        return int(found.result.n_tokens.sum())

    def _records(self, unit: WorkUnit, found: Found) -> list[Record]:
        result: Classes = found.result
        # The first of equals in the classifier's own order, as transformers takes it.
        predictions = self._order[result.logprobs.argmax(1)].tolist()
        by_class = np.empty_like(result.logprobs)
        by_class[:, self._order] = result.logprobs
        columns = zip(found.prompts, predictions, by_class.tolist(), result.n_tokens.tolist(), strict=True)
        return [
            Record(
                unit.model, unit.task, None, one.k, unit.seed, one.sample.id, one.sample.gold, prediction,
                label_logprobs=logprobs, n_prompt_tokens=n_tokens or None,
            )
            for one, prediction, logprobs, n_tokens in columns
        ]  # fmt: skip


class Classification:
    """Asks a classifier, whose word is not taken for it.

    Args:
        classifier: that is asked; None before it has learned.
        n_labels: that it should tell apart.
    """

    def __init__(self, classifier: LoadedClassifier | None, n_labels: int) -> None:
        self.classifier, self.n_labels = classifier, n_labels

    def prepare(self, inputs: Sequence[Input]) -> None:
        """Nothing can be worked out before."""

    def paying(self, pay: Callable[[float], None]) -> AbstractContextManager[None]:
        """A classifier in this process costs no money."""
        return nullcontext()

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
