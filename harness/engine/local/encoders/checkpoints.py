"""Loads a checkpoint of an encoder with its head, all of it from its files: nothing of it may be drawn at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from harness.config.schema import ModelEntry
from harness.engine.classifying import Texts
from harness.engine.local.loading import choose_device, choose_dtype
from harness.engine.local.model_errors import loading_error
from harness.engine.local.soundness import check_tensors, check_weights_are_finite
from harness.engine.protocol import EngineFacts, OpenSettings


@dataclass(frozen=True)
class Checkpoint:
    """A loaded encoder with its head."""

    model: Any
    """In evaluation mode on its device."""
    tokenizer: Any
    longest: int | None
    """Tokens of an input; None where nothing limits it."""


def open_checkpoint(entry: ModelEntry, settings: OpenSettings, auto_class: Any) -> Checkpoint:
    """Load a checkpoint, and check that every tensor, the head's too, is the checkpoint's.

    Args:
        entry: names it.
        settings: of the worker.
        auto_class: of transformers, such as `AutoModelForSequenceClassification`.

    Raises:
        ModelError: it does not load, or a part of it would be random.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    device = choose_device(entry.device)
    options: dict[str, Any] = {"revision": entry.revision or "main", "trust_remote_code": entry.trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(entry.path, **options)
        loaded: Any = auto_class.from_pretrained(
            entry.path,
            dtype=choose_dtype(entry.dtype, device),
            use_safetensors=True,
            # Told with names below; transformers itself raises without them.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        raise loading_error(entry.path, "weights", error) from None
    model, info = loaded
    check_tensors(entry.path, model, info)
    check_weights_are_finite(entry.path, model)
    model = model.eval().to(device)
    return Checkpoint(model, tokenizer, longest_input(model, tokenizer, entry.max_length))


def open_base(base: ModelEntry, auto_class: Any, **settings: Any) -> tuple[Any, Any]:
    """Load a pre-trained encoder to learn with, in float32: its body is the checkpoint's, what stands on it is new.

    Args:
        base: names it.
        auto_class: of transformers, with a head or without.
        settings: of the head.

    Returns:
        The model on the CPU, and its tokenizer.

    Raises:
        ModelError: it does not load, or a part of its body would be random.
    """
    options: dict[str, Any] = {"revision": base.revision or "main", "trust_remote_code": base.trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.path, **options)
        model, info = auto_class.from_pretrained(
            base.path,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **settings,
            **options,
        )
    except Exception as error:
        raise loading_error(base.path, "weights", error) from None
    check_body(base.path, model, info)
    check_weights_are_finite(base.path, model)
    return model, tokenizer


def check_body(path: str, model: Any, info: Mapping[str, Any]) -> None:
    """Refuse an encoder whose layers or embeddings its checkpoint lacks.

    Heads are new in any case, as is a pooler, which pre-training by masked words has none of; heads of the checkpoint
    are passed over.

    Args:
        path: of the checkpoint.
        model: as loaded.
        info: as of `check_tensors`.

    Raises:
        ModelError: with the names of the first few.
    """
    prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""

    def is_body(name: str) -> bool:
        return name.startswith(prefix) and "pooler" not in name.split(".")

    missing = [name for name in info["missing_keys"] if is_body(name)]
    mismatched = [row for row in info["mismatched_keys"] if is_body(row[0])]
    unexpected = info["unexpected_keys"] if missing else []
    check_tensors(path, model, {"missing_keys": missing, "mismatched_keys": mismatched, "unexpected_keys": unexpected})


def encoded(tokenizer: Any, texts: Sequence[Texts], longest: int | None) -> list[dict[str, list[int]]]:
    """Each text as the tokenizer gives it, cut where it is too long."""
    columns = [list(column) for column in zip(*texts, strict=True)]
    found = tokenizer(*columns, truncation=longest is not None, max_length=longest)
    return [{name: found[name][place] for name in found} for place in range(len(texts))]


def facts_of(model: Any) -> EngineFacts:
    """Device and number format of a loaded model."""
    device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return EngineFacts(name, str(model.dtype).removeprefix("torch."))


def longest_input(model: Any, tokenizer: Any, chosen: int | None) -> int | None:
    """Tokens that an input may have; None where nothing limits it.

    Args:
        model: loaded.
        tokenizer: its own.
        chosen: by the user.
    """
    limits = [chosen, min(int(tokenizer.model_max_length), 10**9)]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            # Where padding has a position of its own, as in RoBERTa, the first token comes after it.
            limits.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    known = [limit for limit in limits if limit is not None]
    return min(known) if min(known) < 10**9 else None
