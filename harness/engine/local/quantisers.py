"""Quantised checkpoints: which package loads which kind, as their configuration names it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from harness.core.errors import ModelError
from harness.core.escaping import one_line

_PACKAGES: Mapping[str, tuple[str, str]] = {
    "awq": ("gptqmodel", "gptqmodel"),
    "gptq": ("gptqmodel", "gptqmodel optimum"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "torchao": ("torchao", "torchao"),
    "hqq": ("hqq", "hqq"),
    "quanto": ("optimum", "optimum-quanto"),
    "aqlm": ("aqlm", "aqlm[gpu,cpu]"),
    "eetq": ("kernels", "kernels"),
    "auto-round": ("auto_round", "auto-round"),
    "vptq": ("vptq", "vptq"),
    "fp_quant": ("fp_quant", "fp_quant"),
}
"""`quant_method` of a checkpoint to the module that must be there, and what pip installs for it."""


def check_quantiser(path: str, config: Any) -> None:
    """Refuse a quantised checkpoint whose package is missing.

    Args:
        path: of the model.
        config: transformers' configuration.

    Raises:
        ModelError: naming the package.
    """
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return
    method = settings.get("quant_method") if isinstance(settings, Mapping) else getattr(settings, "quant_method", None)
    kind = str(getattr(method, "value", method))
    module, packages = _PACKAGES.get(kind, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise ModelError(
            f"model '{path}' is quantised by {one_line(kind, 40)}, which needs a package that is not installed; "
            f"install it on every node: pip install {packages}"
        )
