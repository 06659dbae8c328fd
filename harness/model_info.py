"""What is known of a model before its weights are loaded: tokenizer, context length, identity.

Reads files only; torch stays out of the driver.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from harness.config import ModelConfig
from harness.errors import ModelError
from harness.memory import ModelShape, shape_of_config

_READ_WHOLE = 64 * 2**20
_EDGE = 2**20


@dataclass(frozen=True)
class ModelInfo:
    """One model of the grid."""

    path: str
    identity: str
    """Hash of its files (hub models: the commit)."""
    context_length: int | None
    """Most tokens of a prompt; None when the model names no limit."""
    tokenizer: Any
    parameters: int | None
    """Number of weights, from the safetensors headers of a local folder."""
    shape: ModelShape | None = None
    """Its sizes, where folder and configuration tell them."""


def read_model_info(config: ModelConfig, path: str) -> ModelInfo:
    """Tokenizer, context length and identity of one model.

    Raises:
        ModelError: the folder is missing or lacks configuration, weights or tokenizer.
    """
    transformers_logging.set_verbosity_error()
    folder = Path(path)
    local = folder.is_dir()
    if not local and (path.startswith((".", "/", "~")) or path.count("/") != 1):
        raise ModelError(f"no model folder '{path}'; expected a folder with config.json, weights and tokenizer")
    if local:
        _check_folder(folder)
    options = {"revision": config.revision or "main", "trust_remote_code": config.trust_remote_code}
    try:
        model_config = AutoConfig.from_pretrained(path, **options)
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model '{path}': configuration or tokenizer does not load: {reason}; "
            "expected a local folder, or a hub name and a network that reaches the hub"
        ) from None
    text_config = model_config.get_text_config()
    limit = getattr(text_config, "max_position_embeddings", None) or getattr(text_config, "n_positions", None)
    if config.max_length is not None:
        if limit is not None and config.max_length > limit:
            raise ModelError(f"model.max_length is {config.max_length}, but '{path}' has {limit} positions")
        limit = config.max_length
    identity = _folder_identity(folder) if local else str(getattr(model_config, "_commit_hash", None) or options)
    parameters = _count_parameters(folder) if local else None
    shape = shape_of_config(text_config, parameters, _stored_bytes(folder)) if parameters is not None else None
    return ModelInfo(path, identity, limit, tokenizer, parameters, shape)


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"model folder '{folder}' has no config.json; expected a transformers checkpoint")
    if not any(folder.glob("*.safetensors")):
        others = sorted(p.name for p in folder.glob("*.bin"))
        hint = f" (found {others[0]}; convert it to safetensors)" if others else ""
        raise ModelError(f"model folder '{folder}' has no *.safetensors weights{hint}")
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt", "tokenizer_config.json")
    if not any((folder / name).is_file() for name in names):
        raise ModelError(f"model folder '{folder}' has no tokenizer; expected tokenizer.json beside the weights")


def _folder_identity(folder: Path) -> str:
    """Hash of configuration, tokenizer and weights.

    Of a weights file over 64 MiB, the size and both ends count: a header names every tensor,
    and reading all of a large model would take longer than loading it.
    """
    digest = hashlib.blake2b(digest_size=16)
    for pattern in ("config.json", "token*", "vocab*", "merges.txt", "*.model", "*.safetensors"):
        for file in sorted(folder.glob(pattern)):
            size = file.stat().st_size
            digest.update(f"{file.name}\0{size}\0".encode())
            with file.open("rb") as stream:
                if size <= _READ_WHOLE:
                    digest.update(stream.read())
                else:
                    digest.update(stream.read(_EDGE))
                    stream.seek(-_EDGE, 2)
                    digest.update(stream.read())
    return digest.hexdigest()


def _stored_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _count_parameters(folder: Path) -> int:
    total = 0
    for file in folder.glob("*.safetensors"):
        try:
            with file.open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            total += sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
        except (ValueError, KeyError, AttributeError, OverflowError, MemoryError):
            raise ModelError(f"'{file}' is not a safetensors file; copy or download the model again") from None
    return total
