"""The engine `server`: many requests at a time, ordered so that prompts which begin alike meet the server's cache."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from harness.config.schema import ModelEntry
from harness.core.errors import EngineError, ModelError, RequestError, ServerLostError
from harness.engine.protocol import Ending, Generations, LoadedEngine, OpenSettings, Prompt, Scores
from harness.engine.server.answers import PromptScore, read_as_answer
from harness.engine.server.by_text import FirstToken
from harness.engine.server.client import Client, all_of
from harness.engine.server.description import ServerDescription, describe_server, key_of
from harness.engine.server.dialogue import Dialogue, Written
from harness.engine.server.facts import ServerFacts
from harness.engine.server.limits import Budget
from harness.engine.server.probe import Found, probe

T = TypeVar("T")
DEVICE = "server"


class ServerEngine:
    """See `harness.engine.protocol.Engine`."""

    def describe(self, model: ModelEntry) -> ServerDescription:
        """Read the tokenizer; the server is left alone."""
        return describe_server(model)

    def open(self, model: ModelEntry, settings: OpenSettings) -> ServerModel:
        """Connect, and find out what the server can do."""
        described = describe_server(model)
        client = Client(
            str(model.base_url),
            key_of(model),
            model.concurrency,
            model.timeout_s,
            (model.requests_per_minute, model.tokens_per_minute),
            Budget.of(model, settings.spent),
        )
        dialogue = Dialogue(client, described.served_name, described.tokenizer, described.known, described.known)
        found = client.run(probe(dialogue, settings.method, settings.longest_prompt))
        return ServerModel(dialogue, found)


class ServerModel(LoadedEngine):
    """A model at a server.

    One prompt without an answer raises for all that were asked with it, and the caller asks for halves of them. What
    was answered is remembered until prompts come that were not among these: nothing is sent twice.

    Args:
        dialogue: with the server.
        found: what it can do.
    """

    def __init__(self, dialogue: Dialogue, found: Found) -> None:
        self._dialogue, self._found = dialogue, found
        self._known: dict[Any, Any] = {}
        self._told: Callable[[int], object] = int
        client = dialogue.client
        way: Any = (found.scoring or found.writing)[False]
        self.facts = ServerFacts(
            DEVICE,
            DEVICE,
            address=client.shown(client.address),
            served_name=dialogue.name,
            scoring=way.name if found.scoring else "",
            writing=way.name if found.writing else "",
            words=way.words,
            sends="ids" if way.dialogue.known and not way.name.startswith("chat") else "text",
            said=found.said,
            probe=tuple(found.probe),
            cannot_compare_by={
                "chat" if is_chat else "plain": _unknown_lengths(way, dialogue.known)
                for is_chat, way in found.scoring.items()
            },
            remarks=found.remarks,
        )

    @property
    def cost(self) -> float:  # type: ignore[override]
        """See `LoadedEngine.cost`."""
        return self._dialogue.client.budget.spent

    def score(self, prompts: Sequence[Prompt], prepared: Any = None) -> Scores:
        """See `LoadedEngine.score`."""
        before = self._dialogue.client.computed
        found: list[PromptScore] = self._ask([_with_each_label_once(prompt) for prompt in prompts], self._score, None)
        logprobs = [
            [one.logprobs[_labels(prompt).index(tuple(label))] for label in prompt.label_ids]
            for prompt, one in zip(prompts, found, strict=True)
        ]
        texts = [one.argmax_text for one in found]
        decode = self._dialogue.tokenizer.decode
        return Scores(
            np.array(logprobs, dtype=np.float64),
            np.array([one.argmax for one in found], dtype=np.int64),
            np.array([one.off_label_mass for one in found], dtype=np.float64),
            self._dialogue.client.computed - before,
            [decode([one.argmax]) if text is None else text for one, text in zip(found, texts, strict=True)],
        )

    async def _score(self, prompt: Prompt) -> PromptScore:
        with read_as_answer():
            found: PromptScore = await self._way(self._found.scoring, prompt).score(prompt)
        return found

    def generate(self, prompts: Sequence[Prompt], ending: Ending) -> Generations:
        """See `LoadedEngine.generate`."""
        client = self._dialogue.client
        before = client.computed

        async def write(prompt: Prompt) -> Written:
            with read_as_answer():
                written: Written = await self._way(self._found.writing, prompt).write(prompt, ending)
            return written

        found = self._ask(prompts, write, (ending.max_new_tokens, ending.stop_texts))
        decoded = sum(len(one.tokens) for one in found)
        return Generations(
            [one.tokens for one in found],
            [one.reason for one in found],
            max(0, client.computed - before - decoded),
            decoded,
        )

    def watch(self, told: Callable[[int], None]) -> None:
        """See `LoadedEngine.watch`."""
        self._told = told

    async def _told_of(self, asked: Coroutine[Any, Any, T]) -> T:
        try:
            return await asked
        finally:
            self._told(1)

    def _way(self, ways: Any, prompt: Prompt) -> Any:
        way = ways.get(prompt.messages is not None)
        if way is None:
            raise RequestError(
                "the prompt is a chat, but the server takes none in this way and the tokenizer is not known; give the "
                "tokenizer's folder as model.path, or use templates with `render: plain`"
            )
        return way

    def _ask(self, prompts: Sequence[Prompt], ask: Callable[[Prompt], Coroutine[Any, Any, T]], how: Any) -> list[T]:
        """Answers to prompts, from what is remembered where they were among the last ones.

        Args:
            prompts: at least one.
            ask: one of them.
            how: what else answers depend on.

        Raises:
            EngineError: of the first prompt that has none. Once that is said of it alone, it is forgotten.
            ServerLostError: the server is gone, or does not let us in any more.
        """
        keys = [(how, p.text, tuple(p.ids), tuple(map(tuple, p.label_ids)), p.family) for p in prompts]
        if not all(key in self._known for key in keys):
            order = sorted(range(len(prompts)), key=lambda i: list(prompts[i].ids))
            try:
                answers = self._dialogue.client.run(all_of([self._told_of(ask(prompts[i])) for i in order]))
            except ModelError as error:
                raise ServerLostError(f"{error}; committed work is kept, run the same command again to go on") from None
            self._known = {keys[i]: answer for i, answer in zip(order, answers, strict=True)}
        found = [self._known[key] for key in keys]
        failed = next((answer for answer in found if isinstance(answer, EngineError)), None)
        if failed is not None:
            if len(keys) == 1:
                del self._known[keys[0]]
            raise failed
        return found


def _unknown_lengths(way: Any, known: bool) -> tuple[str, ...]:
    """What of a label's length its log-probability does not go by."""
    if isinstance(way, FirstToken):
        return ("per_token", "per_character", "per_byte")
    return () if known else ("per_token",)


def _labels(prompt: Prompt) -> list[tuple[int, ...]]:
    """Each label once: prompts with fewer labels than those beside them repeat one."""
    return list(dict.fromkeys(tuple(label) for label in prompt.label_ids))


def _with_each_label_once(prompt: Any) -> Prompt:
    labels = _labels(prompt)
    whole: Prompt = prompt if len(labels) == len(prompt.label_ids) else replace(prompt, label_ids=tuple(labels))
    return whole


ENGINE = ServerEngine()
