"""What the files of an encoder's checkpoint tell before it is loaded: above all which head it has.

Knows names of transformers' classes and labels; refuses to know weights.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from functools import partial
from typing import Any

from transformers import AutoConfig

from harness.config.schema import ModelEntry
from harness.core.errors import ModelError
from harness.engine.classifying import ClassifierDescription
from harness.engine.local.model_info import ModelInfo, read_model_info


class Head(Enum):
    """What a checkpoint was fine-tuned for; values are how names of its architecture end."""

    CLASSES = "ForSequenceClassification"
    SPANS = "ForQuestionAnswering"
    CHOICES = "ForMultipleChoice"

    @property
    def expected(self) -> str:
        """In messages."""
        purpose = {
            Head.CLASSES: "sequence classification",
            Head.SPANS: "extractive question answering",
            Head.CHOICES: "multiple choice",
        }[self]
        return f"a checkpoint fine-tuned for {purpose} (an architecture that ends in {self.value})"


_OTHERS = {
    Head.CLASSES.value: "has a head for sequence classification, which names a class and marks no span",
    Head.SPANS.value: "has a head for question answering, which marks a span and names no class",
    Head.CHOICES.value: "has a head for multiple choice, which compares texts that come with each question",
    "ForCausalLM": "is a decoder that writes text; give it as model.path and ask it by prompts",
    "LMHeadModel": "is a decoder that writes text; give it as model.path and ask it by prompts",
    "ForConditionalGeneration": "writes text; give a checkpoint that reads it",
    "ForTokenClassification": "labels tokens, not texts",
    "ForMaskedLM": "has no such head, only that of its pre-training",
    "ForPreTraining": "has no such head, only that of its pre-training",
    "Model": "has no head at all: one would be drawn at random",
}
"""Endings of architectures to what they are."""


@dataclass(frozen=True)
class EncoderInfo(ModelInfo, ClassifierDescription):
    """A checkpoint for sequence classification, from its files."""


def read_encoder(model: ModelEntry) -> EncoderInfo:
    """Tokenizer, labels and files of one checkpoint for sequence classification.

    Raises:
        ModelError: the folder lacks configuration, weights or tokenizer, or its head is for something else.
    """
    info = read_with_head(model, Head.CLASSES)
    options: dict[str, Any] = {"revision": model.revision or "main", "trust_remote_code": model.trust_remote_code}
    config = AutoConfig.from_pretrained(model.path, **options)
    if config.num_labels < 2:
        raise ModelError(
            f"model '{model.path}' has {config.num_labels} output, a regression; expected {Head.CLASSES.expected} of "
            "two classes or more"
        )
    names = {int(place): str(name) for place, name in config.id2label.items()}
    if sorted(names) != list(range(len(names))):
        raise ModelError(
            f"model '{model.path}': its id2label names the classes {sorted(names)}, expected 0 to {len(names) - 1}; "
            "mend its config.json"
        )
    known = {field.name: getattr(info, field.name) for field in fields(info)}
    return EncoderInfo(**known, labels=tuple(names[place] for place in range(len(names))))


def read_reader(model: ModelEntry) -> ModelInfo:
    """Tokenizer and files of one checkpoint for extractive question answering.

    Raises:
        ModelError: as `read_encoder`; or its tokenizer does not say where tokens stand in the text.
    """
    info = read_with_head(model, Head.SPANS)
    if not info.tokenizer.is_fast:
        raise ModelError(
            f"reference '{model.path}': its tokenizer ({type(info.tokenizer).__name__}) does not say where its tokens "
            "stand in the text; expected one with a tokenizer.json"
        )
    return info


def read_with_head(model: ModelEntry, head: Head) -> ModelInfo:
    """Tokenizer and files of one checkpoint.

    Raises:
        ModelError: the folder lacks configuration, weights or tokenizer, or its head is for something else.
    """
    return read_model_info(model, partial(check_head, head))


def check_head(head: Head, path: str, config: Any) -> None:
    """Refuse what lacks a head, as far as its configuration tells.

    Args:
        head: that is asked for.
        path: of the checkpoint.
        config: transformers' configuration.

    Raises:
        ModelError: naming what it is.
    """
    named = [str(name) for name in getattr(config, "architectures", None) or []]
    if any(name.endswith(head.value) for name in named):
        return
    shown = named[0] if named else f"model type '{getattr(config, 'model_type', '')}', no architecture named"
    ends = ((ending, words) for ending, words in _OTHERS.items() if named and named[0].endswith(ending))
    what = next((words for _, words in ends), "has no such head")
    raise ModelError(f"reference '{path}' ({shown}) {what}; expected {head.expected}")
