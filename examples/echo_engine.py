"""An engine that computes nothing: a label is as likely as it was shown often, an answer is the prompt's end.

docs/adding_an_engine.md goes through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from harness.config.schema import ModelEntry
from harness.engine import protocol
from harness.engine.protocol import Ending, Generations, OpenSettings, Prompt, Scores


class Description(protocol.ModelDescription):
    """A model of which only the tokenizer matters; its replicas take no GPU."""

    resources = protocol.Resources(device="cpu", gpus=0)


class EchoModel(protocol.LoadedEngine):
    """What `open` gives."""

    facts = protocol.EngineFacts(device="cpu", dtype="none")

    def score(self, prompts: Sequence[Prompt], prepared: Any = None) -> Scores:
        """The logarithm of each label's share of all labels shown, one more counted of each."""
        counts = [[1 + count(label, prompt.ids) for label in prompt.label_ids] for prompt in prompts]
        shares = np.array([np.array(row) / sum(row) for row in counts])
        likeliest = [prompt.label_ids[best][0] for prompt, best in zip(prompts, shares.argmax(1), strict=True)]
        return Scores(np.log(shares), np.array(likeliest), np.zeros(len(prompts)), tokens_computed=0)

    def generate(self, prompts: Sequence[Prompt], ending: Ending) -> Generations:
        """The last tokens of each prompt."""
        tokens = [list(prompt.ids[-ending.max_new_tokens :]) for prompt in prompts]
        return Generations(tokens, ["length"] * len(prompts), prompt_tokens_computed=0, tokens_decoded=0)


def count(label: Sequence[int], ids: Sequence[int]) -> int:
    """How often the ids of a label stand in a prompt."""
    return sum(list(ids[at : at + len(label)]) == list(label) for at in range(len(ids)))


class EchoEngine:
    """What `model.engine` names."""

    def describe(self, model: ModelEntry) -> Description:
        """Only the tokenizer is read."""
        return Description(model, AutoTokenizer.from_pretrained(model.path))

    def open(self, model: ModelEntry, settings: OpenSettings) -> EchoModel:
        """There is nothing to load."""
        return EchoModel()


ENGINE = EchoEngine()
