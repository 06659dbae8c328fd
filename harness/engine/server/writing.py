"""Lets a model write: completions and chats."""

from __future__ import annotations

from typing import Any

from harness.core.errors import RequestError
from harness.core.escaping import one_line
from harness.engine.protocol import Ending, Prompt
from harness.engine.server.answers import part
from harness.engine.server.dialogue import Dialogue, Written

MOST_STOPS = 4
"""Stop texts that an OpenAI-compatible server takes; answers are cut at all of them in any case."""


class Completions:
    """`/v1/completions`; see `harness.engine.server.dialogue.Writing`."""

    name, words = "completions", "answers are completions"

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue

    async def write(self, prompt: Prompt, ending: Ending) -> Written:
        """See `Writing.write`."""
        body = {"prompt": self.dialogue.source(prompt), **_stops(ending)}
        answer = await self.dialogue.complete(body, len(prompt.ids), ending.max_new_tokens)
        return _written(self.dialogue, part(answer, "choices", 0), part(answer, "choices", 0, "text"), ending)


class Chats:
    """`/v1/chat/completions`; see `harness.engine.server.dialogue.Writing`."""

    name, words = "chat", "answers are those of a chat"

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue

    async def write(self, prompt: Prompt, ending: Ending) -> Written:
        """See `Writing.write`."""
        body = {"messages": self.dialogue.messages(prompt), **_stops(ending)}
        answer = await self.dialogue.chat(body, len(prompt.ids), ending.max_new_tokens)
        message = part(answer, "choices", 0, "message")
        text = message.get("content")
        return _written(self.dialogue, part(answer, "choices", 0), "" if text is None else text, ending)


def _stops(ending: Ending) -> dict[str, Any]:
    return {"stop": list(ending.stop_texts[:MOST_STOPS])} if ending.stop_texts else {}


def _written(dialogue: Dialogue, choice: Any, text: Any, ending: Ending) -> Written:
    if not isinstance(text, str):
        raise RequestError(f"the server gave {one_line(repr(text), 60)} for an answer, expected text")
    tokens = dialogue.tokenizer(text, add_special_tokens=False)["input_ids"]
    if choice.get("finish_reason") == "length":
        return Written(list(tokens), "length")
    stopped = isinstance(choice.get("stop_reason"), str)
    return Written(list(tokens), "stop" if stopped else "end")
