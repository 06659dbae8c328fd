"""What the engine uses of transformers beyond its documented interface, in one place.

`CHECKED` names the versions that it was checked with (`make test-transformers`). Importing this module never fails:
each name says what happens in a version that lacks what it stands for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

CHECKED = ("5.23.0", "5.24.0")
"""Oldest and newest version that the engine's tests have passed with."""
DEFAULT_ATTENTION = "sdpa"


def _found(module: str, name: str, without: Any) -> Any:
    """An attribute of one of transformers' modules, or what to take without it."""
    try:
        return getattr(importlib.import_module(f"transformers.{module}"), name, without)
    except Exception:
        # transformers turns what goes wrong in a module that it imports lazily into errors of several kinds.
        return without


_CONV1D = _found("pytorch_utils", "Conv1D", None)
TRANSPOSED_LINEAR: tuple[type, ...] = () if _CONV1D is None else (_CONV1D,)
"""Linear maps that keep their weight as `(in, out)`, of GPT-2. Without: such layers are computed as they are, neither
packed nor remembered per token."""
CAUSAL_ARCHITECTURES: Mapping[str, Any] = _found("models.auto.modeling_auto", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", {})
"""Model type to class of every causal language model. Empty without: then loading tells what is none."""
MASKED_ARCHITECTURES: Mapping[str, Any] = _found("models.auto.modeling_auto", "MODEL_FOR_MASKED_LM_MAPPING_NAMES", {})
"""Model type to class of every masked language model, which BERT-like encoders are. Without: the base of a fine-tuning
whose type may also write is refused."""
_FIND_ADAPTER = _found("utils.peft_utils", "find_adapter_config_file", None)


def adapter_of(name: str, revision: str) -> str | None:
    """The adapter's configuration in a hub model, if it has one. Without: None; adapters are then not noticed.

    Args:
        name: of the hub model.
        revision: of it.
    """
    found: str | None = None if _FIND_ADAPTER is None else _FIND_ADAPTER(name, revision=revision)
    return found


def text_config(config: Any) -> Any:
    """The configuration of a model's language part. Without: the whole.

    Args:
        config: transformers' configuration of a model.
    """
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def attention_of(model: Any) -> str:
    """Name of the attention that a model computes with now. Without: `DEFAULT_ATTENTION`, which every model has.

    Args:
        model: a transformers model.
    """
    return getattr(model.config, "_attn_implementation", None) or DEFAULT_ATTENTION


def rotary_caches(model: Any) -> list[Any]:
    """Modules that keep frequencies of the longest sequence so far. Without: none, nothing is kept then.

    Args:
        model: a transformers model.
    """
    return [module for module in model.modules() if hasattr(module, "max_seq_len_cached")]


def forget_longest(module: Any) -> None:
    """Give a module of `rotary_caches` the frequencies that it began with."""
    for prefix in list(_prefixes(module)):
        used = getattr(module, f"{prefix}inv_freq")
        first = getattr(module, f"{prefix}original_inv_freq")
        module.register_buffer(f"{prefix}inv_freq", first.to(used.device).clone(), persistent=False)
        setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def _prefixes(module: Any) -> Iterator[str]:
    """Of the kinds of layers whose frequencies a module keeps; empty where there is one kind."""
    for name in dir(module):
        if name.endswith("original_inv_freq"):
            yield name.removesuffix("original_inv_freq")
