"""Scores labels by their first tokens, as far as these are among the likeliest that a server names.

A label outside of these is not known: such a prompt fails and says so.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from harness.core.errors import RequestError
from harness.engine.protocol import Prompt
from harness.engine.server.answers import PromptScore, listed, log_of_sum, logprob, part
from harness.engine.server.dialogue import Dialogue

TOPS = (20, 5)
"""How many tokens servers name at most."""


class NotAmongError(RequestError):
    """A label is not among the tokens that the server names."""


class FirstToken(ABC):
    """See `harness.engine.server.dialogue.Scoring`.

    Args:
        dialogue: with the model.
        top: tokens that the server names.
    """

    name = words = ""
    begins_anew = False
    """Whether an answer begins a text of its own, so that a blank at its beginning says nothing."""

    def __init__(self, dialogue: Dialogue, top: int) -> None:
        self.dialogue, self.top = dialogue, top

    async def score(self, prompt: Prompt) -> PromptScore:
        """See `Scoring.score`."""
        found = {text: logprob(value) for text, value in (await self.likeliest(prompt)).items()}
        decode = self.dialogue.tokenizer.decode
        labels = [decode(list(label)) for label in prompt.label_ids]
        firsts = [decode([label[0]]) for label in prompt.label_ids] if self.dialogue.known else None
        if firsts is not None and self.begins_anew:
            firsts = [first.strip() or first for first in firsts]
            found = _without_blanks(found)
        shares = [_tokens_of(place, labels, firsts, found) for place in range(len(labels))]
        missing = [label for label, tokens in zip(labels, shares, strict=True) if not tokens]
        if missing:
            raise NotAmongError(
                f"label {missing[0]!r} does not begin with any of the {len(found)} likeliest tokens, which are all "
                "that the server names: its probability is not known"
            )
        logprobs = tuple(log_of_sum([found[token] for token in tokens]) for tokens in shares)
        best = max(found, key=lambda text: found[text])
        of_label = [place for place, tokens in enumerate(shares) if best in tokens]
        known = self.dialogue.known and bool(of_label)
        argmax = int(prompt.label_ids[of_label[0]][0]) if known else -1
        return PromptScore(logprobs, argmax, best, max(0.0, 1.0 - sum(map(math.exp, logprobs))))

    @abstractmethod
    async def likeliest(self, prompt: Prompt) -> Mapping[str, object]:
        """What the likeliest first tokens of an answer read, and their log-probabilities."""


class CompletionTop(FirstToken):
    """`logprobs` of `/v1/completions`."""

    name, words = "completion_top", "the first token among the likeliest of a completion (logprobs)"

    async def likeliest(self, prompt: Prompt) -> Mapping[str, object]:
        """See `FirstToken.likeliest`."""
        body = {"prompt": self.dialogue.source(prompt), "logprobs": self.top}
        answer = await self.dialogue.complete(body, len(prompt.ids))
        top = part(answer, "choices", 0, "logprobs", "top_logprobs", 0)
        if not isinstance(top, Mapping) or len(top) < 2:
            raise RequestError("the server names no likeliest tokens")
        return top


class ChatTop(FirstToken):
    """`top_logprobs` of `/v1/chat/completions`."""

    name, words = "chat_top", "the first token among the likeliest of a chat's answer (top_logprobs)"
    begins_anew = True

    async def likeliest(self, prompt: Prompt) -> Mapping[str, object]:
        """See `FirstToken.likeliest`."""
        body = {"messages": self.dialogue.messages(prompt), "logprobs": True, "top_logprobs": self.top}
        answer = await self.dialogue.chat(body, len(prompt.ids))
        top = listed(part(answer, "choices", 0, "logprobs", "content", 0, "top_logprobs"), "the likeliest tokens")
        found = {str(part(one, "token")): part(one, "logprob") for one in top}
        if len(found) < 2:
            raise RequestError("the server names no likeliest tokens")
        return found


def _without_blanks(found: Mapping[str, float]) -> dict[str, float]:
    """Tokens by their text without white space, those of one text added up; white space alone stays what it is."""
    summed: dict[str, float] = {}
    for text, value in found.items():
        bare = text.strip() or text
        summed[bare] = math.log(math.exp(summed[bare]) + math.exp(value)) if bare in summed else value
    return summed


def _tokens_of(
    place: int, labels: Sequence[str], firsts: Sequence[str] | None, found: Mapping[str, float]
) -> list[str]:
    """The tokens that stand for a label and for no other one.

    Where the tokenizer is known, its own first token, else that without white space; where it is not, every token that
    the label begins with.
    """
    if firsts is not None:
        if firsts.count(firsts[place]) > 1:
            raise RequestError(f"labels share their first token {firsts[place]!r}, and the server names no later ones")
        if firsts[place] in found:
            return [firsts[place]]
        return [text for text in found if text.strip() and text.strip() == firsts[place].strip()]
    bare = [label.strip() for label in labels]
    begins = [text for text in found if text.strip() and bare[place].startswith(text.strip())]
    return [text for text in begins if sum(label.startswith(text.strip()) for label in bare) == 1]
