"""One model at one server: what every way to ask it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from harness.core.errors import RequestError
from harness.engine.protocol import Ending, Prompt
from harness.engine.server.answers import PromptScore
from harness.engine.server.client import Client

GREEDY: dict[str, Any] = {"temperature": 0, "stream": False}


@dataclass(frozen=True)
class Dialogue:
    """A server and what it calls the model.

    Attributes:
        client: asks.
        name: of the model, as the server knows it.
        tokenizer: of the model, or one that stands in for it.
        known: whether its ids are those of the model and can be sent; else texts are.
    """

    client: Client
    name: str
    tokenizer: Any
    known: bool

    async def complete(self, body: Mapping[str, Any], n_tokens: int, new_tokens: int = 1) -> Any:
        """The answer of `/v1/completions`.

        Args:
            body: without the model and what makes it greedy.
            n_tokens: of the prompt.
            new_tokens: most that are generated.
        """
        whole = {"model": self.name, "max_tokens": new_tokens, **GREEDY, **body}
        return await self.client.post(f"{self.client.address}/completions", whole, n_tokens, new_tokens)

    async def chat(self, body: Mapping[str, Any], n_tokens: int, new_tokens: int = 1) -> Any:
        """The answer of `/v1/chat/completions`; see `complete`."""
        whole = {"model": self.name, "max_tokens": new_tokens, **GREEDY, **body}
        return await self.client.post(f"{self.client.address}/chat/completions", whole, n_tokens, new_tokens)

    def source(self, prompt: Prompt) -> Any:
        """What `/v1/completions` takes for a prompt: ids where they are the model's, else text."""
        return list(prompt.ids) if self.known else prompt.text

    def messages(self, prompt: Prompt) -> list[dict[str, str]]:
        """The chat of a prompt; a plain prompt is one message of the user.

        Raises:
            RequestError: the template begins the answer, or lets the model think: the server renders the chat, and no
                chat address takes either.
        """
        if prompt.messages is None:
            return [{"role": "user", "content": prompt.text}]
        if prompt.messages[-1]["role"] == "assistant":
            raise RequestError(
                "the template has answer_prefix or thinking: on, which a chat address does not take; drop them, or "
                "give the tokenizer's folder as model.path and a server that completes prompts"
            )
        return [dict(message) for message in prompt.messages]


class Scoring(Protocol):
    """A way to score labels."""

    name: str
    words: str
    """What it does, for log and manifest."""
    dialogue: Dialogue

    async def score(self, prompt: Prompt) -> PromptScore:
        """Scores of one prompt's labels.

        Raises:
            RequestError: the answer does not hold them.
            NotFiniteError: they are no numbers.
        """
        ...


@dataclass(frozen=True)
class Written:
    """An answer that was generated.

    Attributes:
        tokens: as ids of the dialogue's tokenizer.
        reason: as in `harness.engine.protocol.Generations`.
    """

    tokens: list[int]
    reason: str


class Writing(Protocol):
    """A way to let the model write."""

    name: str
    words: str
    dialogue: Dialogue

    async def write(self, prompt: Prompt, ending: Ending) -> Written:
        """The greedy continuation of one prompt. Raises what `Scoring.score` does."""
        ...
