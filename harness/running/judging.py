"""Turns what the engine found into records: the task's judgement, one prompt at a time.

Knows tasks, answers and records; refuses to know models and storage.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from numbers import Integral

from harness.config.schema import GenerationConfig
from harness.core.addresses import redacted
from harness.core.escaping import one_line
from harness.core.foreign import described, is_the_users
from harness.core.task import NO_CLASS, LabelScores, Sample, Task
from harness.engine.protocol import Generations, Scores
from harness.planning.units import WorkUnit
from harness.prompts.prompt import Prompt
from harness.prompts.tokenizing import PromptTokenizer
from harness.results.schema import Record
from harness.running.cleaning import answer_of

log = logging.getLogger(__name__)
MOST_CHARACTERS = 500
"""Of a failed record's error."""


class TaskLeftError(Exception):
    """A task raised what would end the program."""


class NoJudgementError(Exception):
    """A task said of a prompt or an answer what is neither a class nor a number."""


class Judge:
    """Makes records of scores or generated tokens.

    Args:
        task: whose judgement it is.
        tokenizer: for the text of tokens; decoding leaves it as it is, so another thread may use it too.
        generation: how answers are cut and cleaned.
    """

    def __init__(self, task: Task, tokenizer: PromptTokenizer, generation: GenerationConfig) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self.generation = generation
        self._argmax_texts: dict[int, str] = {}

    def by_labels(self, unit: WorkUnit, prompts: Sequence[Prompt], scores: Scores) -> list[Record]:
        """Records by the labels' log-probabilities; a sample that the task cannot judge has failed.

        Args:
            unit: whose prompts they are.
            prompts: what was scored.
            scores: of the prompts, in their order.
        """
        columns = scores.logprobs.tolist(), scores.argmax.tolist(), scores.off_label_mass.tolist()
        texts: Sequence[str | None] = scores.argmax_texts or [None] * len(prompts)
        records = []
        for prompt, logprobs, argmax, off_label, text in zip(prompts, *columns, texts, strict=True):
            try:
                records.append(self._by_labels(unit, prompt, logprobs, argmax, off_label, text))
            except BaseException as error:
                records.append(unjudged(self.task, unit, prompt.sample, prompt.k, error))
        return records

    def _by_labels(
        self,
        unit: WorkUnit,
        prompt: Prompt,
        logprobs: list[float],
        argmax: int,
        off_label: float,
        text: str | None,
    ) -> Record:
        counts = [len(ids) for ids in prompt.label_ids]
        logprobs = logprobs[: len(counts)]
        text = self._argmax_text(argmax) if text is None else text
        scores = LabelScores(tuple(logprobs), tuple(counts), argmax, off_label)
        prediction = predicted(self.task, prompt, scores)
        return Record(
            unit.model, unit.task, unit.template, prompt.k, unit.seed, prompt.sample.id, prompt.sample.gold,
            prediction, logprobs, counts, argmax, text, _greedy(text, prompt.labels), off_label, len(prompt.ids),
        )  # fmt: skip

    def by_answers(self, unit: WorkUnit, prompts: Sequence[Prompt], found: Generations) -> list[Record]:
        """Records by generated answers; arguments and failures as those of `by_labels`."""
        records = []
        for prompt, tokens, reason in zip(prompts, found.tokens, found.reasons, strict=True):
            try:
                records.append(self._by_answer(unit, prompt, tokens, reason))
            except BaseException as error:
                records.append(unjudged(self.task, unit, prompt.sample, prompt.k, error))
        return records

    def _by_answer(self, unit: WorkUnit, prompt: Prompt, tokens: list[int], reason: str) -> Record:
        reasoning, raw, answer = answer_of(self.tokenizer.decode(tokens), prompt, self.generation)
        sample = prompt.sample
        prediction = values = None
        if self.task.generates:
            values = answer_values(self.task, answer, sample)
        else:
            prediction = self._written_label(tokens, prompt, answer)
        return Record(
            unit.model, unit.task, unit.template, prompt.k, unit.seed, sample.id, sample.gold, prediction,
            greedy_prediction=prediction, n_prompt_tokens=len(prompt.ids), raw_answer=raw, answer=answer,
            n_generated_tokens=len(tokens), finish_reason=reason, answer_values=values, reasoning=reasoning,
        )  # fmt: skip

    def _written_label(self, tokens: list[int], prompt: Prompt, answer: str) -> int:
        """The class whose label the model wrote, as the lecture judges: text without white space around.

        After reasoning the whole answer is held against the labels.
        """
        for index, (label, ids) in enumerate(zip(prompt.labels, prompt.label_ids, strict=True)):
            written = answer if prompt.thinks else self.tokenizer.decode(tokens[: len(ids)])
            if written.strip() == label.strip():
                return index
        return NO_CLASS

    def _argmax_text(self, token: int) -> str:
        if token not in self._argmax_texts:
            self._argmax_texts[token] = self.tokenizer.decode_token(token)
        return self._argmax_texts[token]


def predicted(task: Task, prompt: Prompt, scores: LabelScores) -> int:
    """The class that label scores predict: by the template's score where samples bring choices, else by the task's.

    Raises:
        NoJudgementError: the task's score is no class; a probability would be rounded to one when it is stored.
    """
    if prompt.choices is None:
        found = task.score(scores)
        is_class = isinstance(found, Integral) and not isinstance(found, bool)
        if not is_class or not NO_CLASS <= found < len(task.class_names):
            raise NoJudgementError(
                f"task '{task.name}': its score gave {found!r}, expected the index of one of its "
                f"{len(task.class_names)} classes, or {NO_CLASS} for none"
            )
        return int(found)
    return prompt.choices.choose(prompt.sample, scores.logprobs, scores.token_counts)


def answer_values(task: Task, answer: str, sample: Sample) -> list[float]:
    """What the task's metrics say of an answer.

    Raises:
        NoJudgementError: one gave no finite number; NaN would be left out of its mean without a word.
    """
    found = {name: metric(answer, sample) for name, metric in task.answer_metrics.items()}
    for name, value in found.items():
        if isinstance(value, str) or not math.isfinite(value):
            raise NoJudgementError(f"task '{task.name}': its metric '{name}' gave {value!r}, expected a finite number")
    return [float(value) for value in found.values()]


def unjudged(task: Task, unit: WorkUnit, sample: Sample, k: int | None, error: BaseException) -> Record:
    """The record of a sample whose judging raised; a task cannot end the program (`SystemExit`) in there."""
    if is_the_users(error):
        raise error
    if not isinstance(error, Exception):
        error = TaskLeftError(f"task '{task.name}' raised {described(error)} while it judged")
    return failed(unit, sample, k, error)


def failed(unit: WorkUnit, sample: Sample, k: int | None, error: Exception) -> Record:
    """The record of a sample that raised, which the log tells too; keys in what was raised are masked."""
    kind, text = type(error).__name__, one_line(redacted(str(error)), MOST_CHARACTERS)
    log.warning("sample %s of %s failed: %s: %s", sample.id, place_of(unit.model, unit.template, k), kind, text)
    return failure(unit, sample, k, kind, text)


def place_of(model: str, template: str | None, k: int | None) -> str:
    """Whose record it is, in words."""
    return model if template is None else f"{template} K={k}"


def failure(unit: WorkUnit, sample: Sample, k: int | None, kind: str, text: str) -> Record:
    """The record of a sample that failed.

    Args:
        unit: of which it is a sample.
        sample: the sample.
        k: demonstrations of its prompt; of a reference as `Cell.k`.
        kind: stored as the error's type.
        text: stored as its text.
    """
    return Record(
        unit.model, unit.task, unit.template, k, unit.seed, sample.id, sample.gold, error_type=kind, error=text
    )  # fmt: skip


def _greedy(argmax_text: str, labels: Sequence[str]) -> int | None:
    """The class whose label is the greedily generated token, as the lecture judges."""
    stripped = argmax_text.strip()
    matches = [index for index, label in enumerate(labels) if label.strip() == stripped]
    return matches[0] if matches else None
