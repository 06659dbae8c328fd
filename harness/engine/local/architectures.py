"""Which checkpoints are causal language models, as far as their configuration tells.

Knows names of transformers' classes; refuses to know weights. What no configuration tells (a model
that looks ahead all the same) the engine finds when it loads the model.
"""

from __future__ import annotations

from typing import Any

from harness.core.errors import ModelError
from harness.engine.local.transformers_internals import CAUSAL_ARCHITECTURES

_CAUSAL = frozenset(CAUSAL_ARCHITECTURES.values())
_SUFFIXES = ("ForCausalLM", "LMHeadModel")
_EXPECTED = "expected a causal language model, such as GPT, Llama or Qwen"


def check_architecture(path: str, config: Any) -> None:
    """Refuse what is no causal language model: encoders, masked models, encoder-decoders, classifiers.

    Args:
        path: of the model.
        config: transformers' configuration.

    Raises:
        ModelError: naming what it is.
    """
    named = [str(name) for name in getattr(config, "architectures", None) or []]
    shown = named[0] if named else f"model type '{getattr(config, 'model_type', '')}'"
    brings_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"model '{path}' ({shown}) has an encoder and a decoder; {_EXPECTED}")
    # A bare `...Model` may be a backbone whose head is tied to its embeddings: the weights tell.
    if named and not brings_code and not any(map(_is_causal, named)) and not all(n.endswith("Model") for n in named):
        raise ModelError(f"model '{path}' is no causal language model: its architecture is {shown}; {_EXPECTED}")
    causal_type = not CAUSAL_ARCHITECTURES or getattr(config, "model_type", None) in CAUSAL_ARCHITECTURES
    if not causal_type and not brings_code:
        raise ModelError(f"model '{path}' ({shown}) has no causal language model in transformers; {_EXPECTED}")
    if getattr(config, "is_decoder", None) is False and _is_encoder(config):
        raise ModelError(
            f"model '{path}' ({shown}) reads in both directions: its config.json does not say is_decoder=true; "
            f"{_EXPECTED}"
        )


def _is_causal(architecture: str) -> bool:
    return architecture in _CAUSAL or architecture.endswith(_SUFFIXES)


def _is_encoder(config: Any) -> bool:
    """Whether this type of model is an encoder that `is_decoder` turns into a decoder."""
    return getattr(config, "model_type", None) in _ENCODERS


_ENCODERS = frozenset({
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert",
    "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod",
})  # fmt: skip
