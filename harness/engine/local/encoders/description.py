"""What the files of a checkpoint for sequence classification tell before it is loaded.

Knows names of transformers' classes and labels; refuses to know weights.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from transformers import AutoConfig

from harness.config.schema import ModelEntry
from harness.core.errors import ModelError
from harness.engine.classifying import ClassifierDescription
from harness.engine.local.model_info import ModelInfo, read_model_info

HEAD = "ForSequenceClassification"
_EXPECTED = "expected a checkpoint fine-tuned for sequence classification"
_OTHERS = {
    "ForQuestionAnswering": "has a head for question answering, which marks a span and names no class",
    "ForCausalLM": "is a decoder that writes text; give it as model.path and ask it by prompts",
    "LMHeadModel": "is a decoder that writes text; give it as model.path and ask it by prompts",
    "ForTokenClassification": "labels tokens, not texts",
    "ForMaskedLM": "has no classification head, only that of its pre-training",
    "ForPreTraining": "has no classification head, only that of its pre-training",
    "Model": "has no head at all: its classes would be drawn at random",
}
"""Endings of architectures to what they are."""


@dataclass(frozen=True)
class EncoderInfo(ModelInfo, ClassifierDescription):
    """A checkpoint for sequence classification, from its files."""


def read_encoder(model: ModelEntry) -> EncoderInfo:
    """Tokenizer, labels and files of one checkpoint.

    Raises:
        ModelError: the folder lacks configuration, weights or tokenizer, or its head is for something else.
    """
    info = read_model_info(model, check_is_classifier)
    options: dict[str, Any] = {"revision": model.revision or "main", "trust_remote_code": model.trust_remote_code}
    config = AutoConfig.from_pretrained(model.path, **options)
    names = {int(place): str(name) for place, name in config.id2label.items()}
    if sorted(names) != list(range(len(names))):
        raise ModelError(
            f"model '{model.path}': its id2label names the classes {sorted(names)}, expected 0 to {len(names) - 1}; "
            "mend its config.json"
        )
    known = {field.name: getattr(info, field.name) for field in fields(info)}
    return EncoderInfo(**known, labels=tuple(names[place] for place in range(len(names))))


def check_is_classifier(path: str, config: Any) -> None:
    """Refuse what has no head for sequence classification, as far as its configuration tells.

    Args:
        path: of the checkpoint.
        config: transformers' configuration.

    Raises:
        ModelError: naming what it is.
    """
    named = [str(name) for name in getattr(config, "architectures", None) or []]
    if any(name.endswith(HEAD) for name in named):
        if config.num_labels < 2:
            raise ModelError(
                f"model '{path}' ({named[0]}) has {config.num_labels} output, a regression; {_EXPECTED} of two classes "
                "or more"
            )
        return
    shown = named[0] if named else f"model type '{getattr(config, 'model_type', '')}', no architecture named"
    what = next((words for ending, words in _OTHERS.items() if named and named[0].endswith(ending)), "is no classifier")
    raise ModelError(f"reference '{path}' ({shown}) {what}; {_EXPECTED} (an architecture that ends in {HEAD})")
