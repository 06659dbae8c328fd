"""Asks an engine in a run's way: which method, where answers end. Worker and audit ask through it.

Knows methods and endings; refuses to know how anything is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from harness.config.schema import EngineConfig, GenerationConfig
from harness.core.errors import ConfigError, EngineError, NotFiniteError
from harness.core.task import Task
from harness.engine.protocol import GENERATE, Ending, Generations, LoadedEngine, OpenSettings, Scores
from harness.prompts.endings import StopTexts, turn_ends
from harness.prompts.prompt import Prompt
from harness.prompts.templates import Template
from harness.prompts.tokenizing import PromptTokenizer


class Asks(Protocol):
    """What a worker asks through."""

    def prepare(self, prompts: Sequence[Any]) -> Any:
        """What can be worked out before anything is computed; runs beside `ask`."""
        ...

    def ask(self, prompts: Sequence[Any], prepared: Any = None) -> Any:
        """What is found; it has `tokens_computed`."""
        ...

    def paying(self, pay: Callable[[float], None]) -> AbstractContextManager[None]:
        """Say what the questions of a block have cost."""
        ...


class Asking:
    """A run's questions to one engine.

    Args:
        engine: that is asked.
        method: `likelihood` or `generate`.
        task: whose questions they are.
        generation: how answers end.
        tokenizer: of the model.
    """

    def __init__(
        self, engine: LoadedEngine, method: str, task: Task, generation: GenerationConfig, tokenizer: PromptTokenizer
    ) -> None:
        self.engine = engine
        self.method = method
        self.task = task
        self.generation = generation
        self._end_tokens = turn_ends(tokenizer.tokenizer)
        self._tokenizer = tokenizer
        self._stops = StopTexts(tokenizer, generation.stop)

    def prepare(self, prompts: Sequence[Prompt]) -> Any:
        """What the engine can work out before it computes; runs beside `ask`."""
        return None if self.method == GENERATE else self.engine.prepare(_with_as_many_labels(prompts))

    def ask(self, prompts: Sequence[Prompt], prepared: Any = None) -> Scores | Generations:
        """The engine's answer to some prompts together.

        Args:
            prompts: at least one.
            prepared: what `prepare` gave for them.

        Returns:
            Of prompts with fewer labels than others, the first scores of a row are theirs.

        Raises:
            EngineError: the answer is not one per prompt, or a log-probability is no finite number.
        """
        if self.method != GENERATE:
            even = _with_as_many_labels(prompts)
            return _checked_scores(self.engine.score(even, prepared), even)
        stops, texts = self._stops, tuple(self.generation.stop)
        if prompts[0].thinks:
            # An engine that stops at texts by itself would stop within the reasoning.
            stops, texts = StopTexts(self._tokenizer, texts, after_reasoning_of=prompts[0].header), ()
        ending = Ending(self.most_new_tokens(prompts), self._end_tokens, texts, stops)
        found = self.engine.generate(prompts, ending)
        if len(found.tokens) != len(prompts) or len(found.reasons) != len(prompts):
            raise EngineError(f"the engine gave {len(found.tokens)} answers to {len(prompts)} prompts")
        return found

    @contextmanager
    def paying(self, pay: Callable[[float], None]) -> Iterator[None]:
        """Say what the requests of the block have cost, those of a block that raises included."""
        before = self.engine.cost
        try:
            yield
        finally:
            pay(self.engine.cost - before)

    def most_new_tokens(self, prompts: Sequence[Prompt]) -> int:
        """Tokens that an answer, or the longest label, may have."""
        if self.task.generates or prompts[0].thinks:
            return self.generation.max_new_tokens
        return max(len(ids) for prompt in prompts for ids in prompt.label_ids)


def _with_as_many_labels(prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    """Prompts that all have as many labels, as engines expect: of fewer, the first label is asked again.

    Where prefixes are shared it costs nothing; the scores beyond a prompt's own labels say nothing more.
    """
    most = max(len(prompt.label_ids) for prompt in prompts)
    if all(len(prompt.label_ids) == most for prompt in prompts):
        return prompts
    return [
        replace(prompt, label_ids=prompt.label_ids + prompt.label_ids[:1] * (most - len(prompt.label_ids)))
        for prompt in prompts
    ]


def _checked_scores(scores: Scores, prompts: Sequence[Prompt]) -> Scores:
    """An engine's word is not taken for it: scores of another prompt, or none, would be recorded without a word."""
    shapes = scores.logprobs.shape, scores.argmax.shape, scores.off_label_mass.shape
    n = len(prompts)
    if shapes != ((n, len(prompts[0].label_ids)), (n,), (n,)):
        raise EngineError(f"the engine gave scores of shapes {shapes} to {n} prompts")
    if not (np.isfinite(scores.logprobs).all() and np.isfinite(scores.off_label_mass).all()):
        raise NotFiniteError("the engine gave log-probabilities that are NaN or infinite")
    return scores


def check_scores(name: str, facts: Mapping[str, Any], templates: Mapping[str, Template]) -> None:
    """Refuse templates that compare choices by a length of which an engine's log-probabilities know nothing.

    Args:
        name: of the model.
        facts: of its engine, as plain data.
        templates: of the run.

    Raises:
        ConfigError: naming the first of them.
    """
    unknown_of = facts.get("cannot_compare_by") or {}
    for template in templates.values():
        unknown = unknown_of.get("chat" if template.chat else "plain", ())
        if template.choices is not None and template.choices.score in unknown:
            words = facts.get("words")
            raise ConfigError(
                f"template '{template.name}' compares choices {template.choices.score}, for which the engine of model "
                f"'{name}' says too little{f' ({words})' if words else ''}; take letters with `score: sum`, or an "
                "engine that scores whole labels by the model's own tokens"
            )


def open_settings(
    engine: EngineConfig,
    longest_prompt: int,
    share_prefixes: bool | None = None,
    threads: int | None = None,
    tokens: int | None = None,
) -> OpenSettings:
    """A configuration's settings for opening a model.

    Args:
        engine: of the run.
        longest_prompt: of the whole grid, tokens.
        share_prefixes: in the place of the configuration's.
        threads: CPU threads of the replica.
        tokens: of the whole grid, every shared one counted once per shard.
    """
    return OpenSettings(
        engine.share_prefixes if share_prefixes is None else share_prefixes,
        None if engine.tokens_per_pack == "auto" else int(engine.tokens_per_pack),
        longest_prompt,
        threads,
        tokens=tokens,
    )
