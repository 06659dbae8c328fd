"""Scores labels token by token: what follows a prompt, and a prompt with the beginning of a label.

For servers that say the log-probability of any token that is named. Each distinct beginning is asked for once, the
server's cache has the prompt by then, and the sum is exact for labels of any length.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.errors import RequestError
from harness.engine.label_nodes import label_logprobs, mass_outside, nodes_of
from harness.engine.protocol import Prompt
from harness.engine.server.answers import PromptScore, listed, logprob, part, token_id, whole
from harness.engine.server.dialogue import Dialogue, check_whole

AT_ONCE = 128
"""Tokens that vLLM scores in one request."""
FIRST_TOP = 64
"""Tokens that llama.cpp is asked for at first; where a label is not among them, it is asked for all."""


@dataclass(frozen=True)
class Next:
    """What follows some ids.

    Attributes:
        logprobs: of the tokens that were asked for.
        best: the likeliest token.
    """

    logprobs: Mapping[int, float]
    best: int


class TokenByToken(ABC):
    """See `harness.engine.server.dialogue.Scoring`.

    Args:
        dialogue: with a known tokenizer.
    """

    name = words = ""

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue

    async def score(self, prompt: Prompt) -> PromptScore:
        """See `Scoring.score`."""
        wanted = nodes_of(prompt.label_ids)
        nexts = await asyncio.gather(*(self.next(whole(prompt.ids, node), after) for node, after in wanted.items()))
        found = {node: one.logprobs for node, one in zip(wanted, nexts, strict=True)}
        logprobs = label_logprobs(prompt.label_ids, found)
        return PromptScore(logprobs, nexts[0].best, None, mass_outside(found[()]))

    @abstractmethod
    async def next(self, ids: list[int], wanted: Sequence[int]) -> Next:
        """Log-probabilities of some tokens behind some ids."""


class NamedTokens(TokenByToken):
    """vLLM: `logprob_token_ids` of `/v1/completions`."""

    name, words = "logprob_token_ids", "the log-probabilities of the labels' tokens (logprob_token_ids)"

    async def next(self, ids: list[int], wanted: Sequence[int]) -> Next:
        """See `TokenByToken.next`."""
        parts = [wanted[start : start + AT_ONCE] for start in range(0, len(wanted), AT_ONCE)]
        found: dict[int, float] = {}
        best = -1
        for some in parts:
            body = {"prompt": ids, "logprob_token_ids": list(some), "return_tokens_as_token_ids": True}
            answer = await self.dialogue.complete({**body, "logprobs": 1}, len(ids))
            best = _token(part(answer, "choices", 0, "logprobs", "tokens", 0))
            given = part(answer, "choices", 0, "logprobs", "top_logprobs", 0)
            named = {_token(key): value for key, value in given.items()}
            found |= {token: logprob(part(named, token)) for token in some}
        return Next(found, best)


class NativeGenerate(TokenByToken):
    """SGLang: `token_ids_logprob` of its own `/generate`."""

    name, words = "token_ids_logprob", "the log-probabilities of the labels' tokens (/generate, token_ids_logprob)"

    async def next(self, ids: list[int], wanted: Sequence[int]) -> Next:
        """See `TokenByToken.next`."""
        body = {
            "input_ids": ids,
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
            "token_ids_logprob": list(wanted),
        }
        answer = await self.dialogue.client.post(f"{self.dialogue.client.root}/generate", body, len(ids), 1)
        check_whole(answer, len(ids))
        pairs = listed(part(answer, "meta_info", "output_token_ids_logprobs", 0), "the tokens asked for")
        found = {token_id(part(pair, 1)): part(pair, 0) for pair in pairs}
        best = token_id(part(answer, "meta_info", "output_token_logprobs", 0, 1))
        return Next({token: logprob(part(found, token)) for token in wanted}, best)


class TopOfAll(TokenByToken):
    """llama.cpp: `n_probs` of its own `/completion`, up to all tokens."""

    name, words = "n_probs", "the log-probabilities of the likeliest tokens, as many as it takes (/completion, n_probs)"

    async def next(self, ids: list[int], wanted: Sequence[int]) -> Next:
        """See `TokenByToken.next`."""
        for size in (FIRST_TOP, len(self.dialogue.tokenizer)):
            body = {"prompt": ids, "n_predict": 1, "n_probs": size, "temperature": 0, "cache_prompt": True}
            answer = await self.dialogue.client.post(
                f"{self.dialogue.client.root}/completion", {**body, "post_sampling_probs": False}, len(ids), 1
            )
            check_whole(answer, len(ids))
            top = listed(part(answer, "completion_probabilities", 0, "top_logprobs"), "the likeliest tokens")
            found = {token_id(part(one, "id")): part(one, "logprob") for one in top}
            if all(token in found for token in wanted):
                best = max(found, key=lambda token: logprob(found[token]))
                return Next({token: logprob(found[token]) for token in wanted}, best)
        raise RequestError(f"the server's answer lacks labels among the log-probabilities of {len(found):,} tokens")


def _token(text: Any) -> int:
    """The id in a `token_id:123`."""
    name, _, number = str(text).partition(":")
    if name != "token_id":
        raise RequestError("the server does not name tokens by their ids (return_tokens_as_token_ids)")
    return token_id(number)
