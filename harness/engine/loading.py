"""Loads a causal language model for scoring. Weights are read from safetensors only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from harness.errors import ModelError


@dataclass(frozen=True)
class ModelSpec:
    """What to load, and onto what."""

    path: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    gpus: float = 1
    """GPUs of this replica; more than 1 spreads the layers over them with accelerate."""


def choose_device(wanted: str) -> torch.device:
    """`auto` takes the GPU when there is one.

    Raises:
        ModelError: `cuda` was asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelError("model.device is 'cuda', but no GPU is visible; use model.device=cpu or auto")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda:0" if wanted == "cuda" else wanted)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """`auto` takes bfloat16 where the processor multiplies it natively, else float32."""
    if wanted != "auto":
        dtype: torch.dtype = getattr(torch, wanted)
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _cpu_multiplies_bf16() else torch.float32


def _cpu_multiplies_bf16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in checks if hasattr(torch.cpu, name))


def load_model(spec: ModelSpec) -> Any:
    """The model in evaluation mode on its device.

    Raises:
        ModelError: no such folder, no safetensors weights, or an architecture transformers
            does not know.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    device = choose_device(spec.device)
    options: dict[str, Any] = {}
    if device.type == "cuda" and spec.gpus > 1:
        options["device_map"] = "auto"
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            spec.path,
            revision=spec.revision or "main",
            dtype=choose_dtype(spec.dtype, device),
            trust_remote_code=spec.trust_remote_code,
            use_safetensors=True,
            **options,
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model '{spec.path}' does not load: {reason}; expected a folder (or hub name) with "
            "config.json and safetensors weights of a causal language model"
        ) from None
    model.eval()
    return model if options else model.to(device)
