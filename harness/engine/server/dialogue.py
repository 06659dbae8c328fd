"""One model at one server: what every way to ask it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.core.errors import RequestError
from harness.engine.protocol import Ending, Prompt
from harness.engine.server.answers import PromptScore
from harness.engine.server.client import Client
from harness.engine.server.usage import usage_of

GREEDY: dict[str, Any] = {"temperature": 0, "stream": False}
PENALTIES_OFF: dict[str, Any] = {"repetition_penalty": 1.0, "repeat_penalty": 1.0}
"""Servers take a penalty of repetitions from the model's generation settings: vLLM and SGLang call it the first,
llama.cpp the second."""
CUT_OFF = frozenset({"content_filter", "abort", "error", "tool_calls", "function_call"})
"""Reasons for an answer's end by which it is not the model's whole answer."""


@dataclass(frozen=True)
class Dialogue:
    """A server and what it calls the model.

    Attributes:
        client: asks.
        name: of the model, as the server knows it.
        tokenizer: of the model, or one that stands in for it.
        known: whether its ids are those of the model and can be sent; else texts are.
        counts: whether its numbers of tokens are those of the model, whatever is sent.
        settings: sent with each request of the OpenAI-compatible kind.
    """

    client: Client
    name: str
    tokenizer: Any
    known: bool
    counts: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    async def complete(self, body: Mapping[str, Any], n_tokens: int, new_tokens: int = 1) -> Any:
        """The answer of `/v1/completions`.

        Args:
            body: without the model and what makes it greedy.
            n_tokens: of the prompt.
            new_tokens: most that are generated.
        """
        return await self._ask("completions", body, (n_tokens, new_tokens), n_tokens if self.counts else 0)

    async def chat(self, body: Mapping[str, Any], n_tokens: int, new_tokens: int = 1) -> Any:
        """The answer of `/v1/chat/completions`; see `complete`."""
        # The server's template may say less around the messages, but not less than they do.
        least = self._tokens_of(body["messages"]) if self.counts else 0
        return await self._ask("chat/completions", body, (n_tokens, new_tokens), least)

    async def _ask(self, path: str, body: Mapping[str, Any], sizes: tuple[int, int], least: int) -> Any:
        whole = {"model": self.name, "max_tokens": sizes[1], **GREEDY, **self.settings, **body}
        answer = await self.client.post(f"{self.client.address}/{path}", whole, *sizes)
        check_whole(answer, least)
        return answer

    def _tokens_of(self, messages: Sequence[Mapping[str, str]]) -> int:
        texts = [message["content"].strip() for message in messages]
        return sum(map(len, self.tokenizer(texts, add_special_tokens=False)["input_ids"]))

    def source(self, prompt: Prompt) -> Any:
        """What `/v1/completions` takes for a prompt: ids where they are the model's, else text."""
        return list(prompt.ids) if self.known else prompt.text

    def messages(self, prompt: Prompt) -> list[dict[str, str]]:
        """The chat of a prompt; a plain prompt is one message of the user."""
        if prompt.messages is None:
            return [{"role": "user", "content": prompt.text}]
        return [dict(message) for message in prompt.messages]


def check_whole(answer: Any, least: int = 0) -> None:
    """Refuse an answer to a part of a prompt, or one that did not end as answers do.

    Args:
        answer: of a server.
        least: tokens that the prompt has at least.

    Raises:
        RequestError: the server has cut the prompt, or ended the answer itself.
    """
    if not isinstance(answer, Mapping):
        return
    usage = usage_of(answer)
    if usage is not None and usage.prompt < least:
        raise RequestError(
            f"the server counts {usage.prompt} tokens in a prompt of {least}: it has cut it; start it with a longer "
            "context"
        )
    if answer.get("truncated") is True:
        raise RequestError("the server says that it has cut the prompt (truncated); start it with a longer context")
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    reason = first.get("finish_reason") if isinstance(first, Mapping) else None
    if isinstance(reason, str) and reason in CUT_OFF:
        raise RequestError(f"the server ended the answer with '{reason}', so that it is not the model's whole answer")


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
