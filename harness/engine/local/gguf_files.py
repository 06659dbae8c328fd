"""GGUF files: weights, configuration and tokenizer in one, read by transformers, which dequantises the weights."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from harness.core.errors import ModelError
from harness.core.escaping import one_line
from harness.engine.local.model_files import ModelFiles

SUFFIX = ".gguf"
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


def is_gguf(path: str) -> bool:
    """Whether a path is that of a GGUF file."""
    return path.endswith(SUFFIX) and Path(path).is_file()


def source_of(path: str) -> tuple[str, dict[str, Any]]:
    """Where transformers finds a model, and what else it has to be told: of a GGUF file its folder and name."""
    if not is_gguf(path):
        return path, {}
    return str(Path(path).parent), {"gguf_file": Path(path).name}


def read_gguf_files(path: str) -> ModelFiles:
    """The tensors of a GGUF file, as `ModelFiles` that nothing beside it is read from.

    Raises:
        ModelError: the package `gguf` is missing, or the file is damaged or a part of several.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            f"model '{path}' needs the package gguf, which is not installed; install it on every node: "
            "pip install 'prompt-grid-harness[gguf]'"
        )
    if _PART.search(path):
        raise ModelError(f"model '{path}' is one part of several; join them first (llama-gguf-split --merge)")
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(path).tensors
        headers = {
            str(tensor.name): {"dtype": tensor.tensor_type.name, "shape": [int(n) for n in reversed(tensor.shape)]}
            for tensor in tensors
        }
    except Exception as error:
        raise ModelError(
            f"'{path}' is no GGUF file that can be read: {one_line(str(error), 160)}; copy or download it again"
        ) from None
    file = Path(path)
    return ModelFiles(file.parent, (file,), (), headers, alone=True)
