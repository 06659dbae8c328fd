"""Scores each label by reading it behind its prompt: one request per label, exact for labels of any length."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from harness.core.errors import RequestError
from harness.engine.label_nodes import mass_outside
from harness.engine.protocol import Prompt
from harness.engine.server.answers import PromptScore, listed, logprob, part, token_id, whole
from harness.engine.server.dialogue import Dialogue
from harness.engine.server.usage import usage_of


class _Reading:
    """What one label got: its tokens' log-probabilities, and the likeliest token in the place of the first."""

    def __init__(self, logprobs: Sequence[float], first: object, best: int, best_text: str | None) -> None:
        self.logprobs, self.first, self.best, self.best_text = logprobs, first, best, best_text


class LabelByLabel(ABC):
    """See `harness.engine.server.dialogue.Scoring`.

    Args:
        dialogue: with the model.
    """

    name = words = ""

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue

    async def score(self, prompt: Prompt) -> PromptScore:
        """See `Scoring.score`."""
        read = await asyncio.gather(*(self.read(prompt, label) for label in prompt.label_ids))
        firsts = {one.first: one.logprobs[0] for one in read}
        mass = mass_outside(dict(enumerate(firsts.values())))
        return PromptScore(tuple(sum(one.logprobs) for one in read), read[0].best, read[0].best_text, mass)

    @abstractmethod
    async def read(self, prompt: Prompt, label: Sequence[int]) -> _Reading:
        """One label behind its prompt."""


class PromptLogprobs(LabelByLabel):
    """vLLM: `prompt_logprobs` of `/v1/completions`."""

    name, words = "prompt_logprobs", "each label behind its prompt (prompt_logprobs)"

    async def read(self, prompt: Prompt, label: Sequence[int]) -> _Reading:
        """See `LabelByLabel.read`."""
        ids, start = whole(prompt.ids, label), len(prompt.ids)
        answer = await self.dialogue.complete({"prompt": ids, "prompt_logprobs": 1}, len(ids))
        places = listed(part(answer, "choices", 0, "prompt_logprobs"), "the tokens that were sent", len(ids))
        found = [logprob(part(places, start + i, str(token), "logprob")) for i, token in enumerate(label)]
        first = places[start]
        best = max(first, key=lambda token: logprob(part(first, token, "logprob")))
        return _Reading(found, label[0], token_id(best), None)


class Echo(LabelByLabel):
    """Completions that repeat their prompt with log-probabilities: `echo` and `logprobs`."""

    name, words = "echo", "each label behind its prompt (echo with logprobs)"

    def __init__(self, dialogue: Dialogue) -> None:
        super().__init__(dialogue)
        self._beginnings: dict[str, list[Any]] = {}

    async def score(self, prompt: Prompt) -> PromptScore:
        """See `Scoring.score`; where labels begin, the server's own tokens of the prompt by itself say."""
        if not self.dialogue.known:
            self._beginnings[prompt.text] = (await self._echo(prompt.text, len(prompt.ids)))[0]
        try:
            return await super().score(prompt)
        finally:
            self._beginnings.pop(prompt.text, None)

    async def read(self, prompt: Prompt, label: Sequence[int]) -> _Reading:
        """See `LabelByLabel.read`."""
        sent = whole(prompt.ids, label)
        source = sent if self.dialogue.known else prompt.text + self.dialogue.tokenizer.decode(list(label))
        tokens, values, tops = await self._echo(source, len(sent))
        start = len(prompt.ids)
        if self.dialogue.known and len(tokens) != len(sent):
            raise RequestError(f"the server counts {len(tokens)} tokens where {len(sent)} were sent")
        if not self.dialogue.known:
            before = self._beginnings[prompt.text]
            start = len(before)
            if tokens[:start] != before or len(tokens) == start:
                raise RequestError(
                    "a label merges with the end of its prompt in the server's tokens; end queries without white space "
                    "and begin labels with a space"
                )
        found = [logprob(value) for value in values[start:]]
        top = part(tops, start)
        best = max(top, key=lambda token: logprob(part(top, token)))
        return _Reading(found, tokens[start], _id(self.dialogue, best), best)

    async def _echo(self, source: Any, n_tokens: int) -> tuple[list[Any], list[Any], list[Any]]:
        """The tokens of a text, the log-probability of each, and the likeliest ones in its place."""
        answer = await self.dialogue.complete({"prompt": source, "echo": True, "logprobs": 1}, n_tokens)
        said = part(answer, "choices", 0, "logprobs")
        usage = usage_of(answer)
        tokens = listed(part(said, "tokens"), "tokens")
        values = listed(part(said, "token_logprobs"), "log-probabilities of tokens", len(tokens))
        tops = listed(part(said, "top_logprobs"), "likeliest tokens", len(tokens))
        # One token is generated behind the text, unless the model ends there.
        has_more = not isinstance(source, str) or not "".join(map(str, tokens)).endswith(source)
        n = usage.prompt if usage is not None else len(tokens) - has_more
        return tokens[:n], values[:n], tops[:n]


def _id(dialogue: Dialogue, text: str) -> int:
    """The id of a token that is known by what it reads; -1 where no single one reads so."""
    if not dialogue.known:
        return -1
    ids = dialogue.tokenizer(text, add_special_tokens=False)["input_ids"]
    return int(ids[0]) if len(ids) == 1 else -1
