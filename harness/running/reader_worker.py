"""Does work units of a reader: the answer to each question is a span of its context, judged as written answers are.

Takes the steps of the worker it derives from; knows readers and the task's metrics, refuses to know templates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness.config.schema import ReferenceEntry
from harness.core.errors import EngineError, NotFiniteError
from harness.engine.protocol import OpenSettings
from harness.engine.reading import LoadedReader, Question, Span, Spans
from harness.engine.registry import find_reader
from harness.planning.units import WorkUnit
from harness.results.schema import Record
from harness.running.judging import answer_values, unjudged
from harness.running.reference_worker import Input, Questions, ReferenceWorker
from harness.running.work import Found


class ReaderWorker(ReferenceWorker):
    """One loaded reader; built as `ReferenceWorker`."""

    def _open(self, settings: OpenSettings) -> Reading:
        entry = self.spec.model
        assert isinstance(entry, ReferenceEntry), "a reference"
        reader = find_reader(entry.engine).open(entry, settings)
        self.facts = reader.facts
        return Reading(reader)

    def _records(self, unit: WorkUnit, found: Found) -> list[Record]:
        result: Spans = found.result
        columns = zip(found.prompts, result.best, result.n_tokens.tolist(), strict=True)
        return [self._record(unit, one, spans[0], n_tokens) for one, spans, n_tokens in columns]

    def _record(self, unit: WorkUnit, one: Input, span: Span, n_tokens: int) -> Record:
        answer = span.text.strip()
        try:
            values = answer_values(self.task, answer, one.sample)
        except BaseException as error:
            return unjudged(self.task, unit, one.sample, one.k, error)
        return Record(
            unit.model, unit.task, None, one.k, unit.seed, one.sample.id, one.sample.gold, n_prompt_tokens=n_tokens,
            raw_answer=span.text, answer=answer, answer_values=values,
        )  # fmt: skip


class Reading(Questions):
    """Asks a reader, whose word is not taken for it."""

    def __init__(self, reader: LoadedReader) -> None:
        self.reader = reader

    def ask(self, inputs: Sequence[Input], prepared: Any = None) -> Spans:
        """The spans of some inputs.

        Raises:
            EngineError: the answer is not one per input, a span is no part of its context, or its score no number.
        """
        questions = [Question(*one.texts) for one in inputs]
        found = self.reader.read(questions)
        if len(found.best) != len(inputs) or found.n_tokens.shape != (len(inputs),):
            raise EngineError(f"the reader gave {len(found.best)} answers to {len(inputs)} questions")
        for question, spans in zip(questions, found.best, strict=True):
            if not spans or any(question.context[span.start : span.end] != span.text for span in spans):
                raise EngineError("the reader gave no span, or one that does not stand in the context")
            if not all(math.isfinite(span.score) for span in spans):
                raise NotFiniteError("the reader gave scores that are NaN or infinite")
        return found
