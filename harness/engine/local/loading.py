"""Loads a causal language model for scoring. Weights are read from safetensors only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from harness.core.errors import ModelError
from harness.engine.local.adapters import merge_adapter
from harness.engine.local.architectures import check_architecture
from harness.engine.local.gguf_files import source_of
from harness.engine.local.model_errors import loading_error
from harness.engine.local.quantisers import check_quantiser
from harness.engine.local.soundness import check_is_causal, check_tensors, check_weights_are_finite


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
    adapter: str | None = None
    """Folder of a LoRA adapter that is merged into the weights."""


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
    """The model in evaluation mode on its device, checked: every tensor is the checkpoint's, all are numbers,
    and no token looks ahead.

    Raises:
        ModelError: it does not load, its weights are not those of the checkpoint, or it is no causal
            language model.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    device = choose_device(spec.device)
    options: dict[str, Any] = {}
    if device.type == "cuda" and spec.gpus > 1:
        options["device_map"] = "auto"
    common = {"revision": spec.revision or "main", "trust_remote_code": spec.trust_remote_code}
    source, told = source_of(spec.path)
    try:
        config = AutoConfig.from_pretrained(source, **told, **common)
        check_architecture(spec.path, config)
        check_quantiser(spec.path, config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            **told,
            dtype=choose_dtype(spec.dtype, device),
            use_safetensors=True,
            # Told with names below; transformers itself raises without them.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **common,
            **options,
        )
    except ModelError:
        raise
    except Exception as error:
        raise loading_error(spec.path, "weights", error) from None
    model, info = loaded
    check_tensors(spec.path, model, info)
    if spec.adapter is not None:
        model = merge_adapter(model, spec.adapter)
    model.eval()
    if not options:
        model.to(device)
    check_weights_are_finite(spec.path, model)
    check_is_causal(spec.path, model)
    return model
