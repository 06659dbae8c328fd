"""What is known of a model behind an address before anything is sent: its tokenizer, and what a grid will ask for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from harness.config.schema import ModelEntry
from harness.core.errors import ModelError
from harness.core.escaping import one_line
from harness.core.foreign import panics_as_errors
from harness.core.hashing import content_hash
from harness.engine.needs import Asked, Expense
from harness.engine.protocol import ModelDescription, Resources, refuse_adapter
from harness.engine.server.characters import character_tokenizer
from harness.engine.server.limits import Budget

UNKNOWN = (
    "its tokenizer is not known: texts are sent, tokens are counted as characters, and that labels begin where the "
    "server's tokens do cannot be checked before; give the folder of its tokenizer as model.path and its name as "
    "model.served_name"
)


@dataclass(frozen=True)
class ServerDescription(ModelDescription):
    """A model behind an address."""

    known: bool = True
    """Whether the tokenizer is the model's own."""
    why: str = ""
    """Why it is not."""

    @property
    def resources(self) -> Resources:
        """A replica only waits."""
        return Resources(device="cpu", gpus=0)

    @property
    def served_name(self) -> str:
        """What the server calls the model."""
        return self.model.served_name or self.model.path

    @cached_property
    def identity(self) -> str:
        """Of the served name and the tokenizer; where the server is does not matter, what it says of itself is kept
        with the run (`ServerFacts`)."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        text = backend.to_str() if self.known and backend is not None else ""
        return content_hash(["server", self.served_name, text, str(self.tokenizer.chat_template)])

    @property
    def loaded_words(self) -> str:
        """See `ModelDescription.loaded_words`."""
        return f"{self.served_name} at {self.model.base_url}"

    @property
    def takes_rendered_chats(self) -> bool:
        """Some servers take messages alone; which, is found when the run begins."""
        return False

    @property
    def notes(self) -> Sequence[str]:
        """That the tokenizer is not known."""
        return () if self.known else (f"model '{self.name}': {UNKNOWN}{self.why}",)

    def expense(self, asked: Sequence[Asked]) -> Expense:
        """See `ModelDescription.expense`: between a request per prompt, and one per label or label token."""
        requests, inputs, outputs = [0, 0], [0, 0], [0, 0]
        for one in asked:
            most = max(1, len(one.label_tokens), 1 + sum(n - 1 for n in one.label_tokens))
            for place, each in enumerate((1, most)):
                requests[place] += one.prompts * each
                inputs[place] += one.prompt_tokens * each
                outputs[place] += one.prompts * (each if not one.answer_tokens else place * one.answer_tokens)
            inputs[1] += one.prompts * sum(one.label_tokens)
        budget = Budget.of(self.model, 0.0)
        priced = self.model.input_price is not None or self.model.output_price is not None
        costs = [budget.cost(*tokens) for tokens in zip(inputs, outputs, strict=True)]
        return Expense(
            self.name,
            str(self.model.base_url),
            (requests[0], requests[1]),
            (inputs[0], inputs[1]),
            (outputs[0], outputs[1]),
            (costs[0], costs[1]) if priced else None,
            self.model.max_cost,
            () if self.known else (UNKNOWN,),
        )


def describe_server(model: ModelEntry) -> ServerDescription:
    """The model of an entry; the server is left alone.

    Raises:
        ModelError: no address, no key in the environment, or a tokenizer that does not load.
    """
    example = "expected such as http://localhost:8000/v1"
    if model.base_url is None:
        raise ModelError(f"model.engine is 'server', but model.base_url is not set; {example}")
    parts = urlsplit(model.base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ModelError(f"model.base_url is '{one_line(model.base_url, 120)}', {example}")
    refuse_adapter(model)
    tokenizer, why = _tokenizer(model)
    known = tokenizer is not None
    return ServerDescription(
        model, tokenizer if known else character_tokenizer(), model.max_length, known=known, why=why
    )


def key_of(model: ModelEntry) -> str | None:
    """The key that the environment holds; None where none is asked for.

    Raises:
        ModelError: the variable is not set.
    """
    if model.api_key_env is None:
        return None
    key = os.environ.get(model.api_key_env, "").strip()
    if not key:
        raise ModelError(
            f"model.api_key_env names the environment variable {model.api_key_env}, which is not set in this process; "
            "export the key there, on every node"
        )
    if not key.isascii() or not key.isprintable():
        raise ModelError(f"the environment variable {model.api_key_env} holds no key: a key has plain characters alone")
    return key


def _tokenizer(model: ModelEntry) -> tuple[Any, str]:
    """The tokenizer at `model.path`, or None and why there is none."""
    path = model.path
    local = Path(path).is_dir()
    if not local and (path.startswith((".", "/", "~")) or path.count("/") != 1):
        return None, ""
    transformers_logging.set_verbosity_error()
    options = {"revision": model.revision or "main", "trust_remote_code": model.trust_remote_code}
    try:
        with panics_as_errors():
            tokenizer = AutoTokenizer.from_pretrained(path, **options)
            tokenizer.decode(tokenizer(path)["input_ids"])
        return tokenizer, ""
    except Exception as error:
        reason = one_line(str(error), 200)
        if local:
            raise ModelError(
                f"model.path '{path}': its tokenizer cannot be loaded: {reason}; give the folder of the served model's "
                "tokenizer, or a name that is no folder to send texts"
            ) from None
        return None, f" ('{path}' on the hub: {reason})"
