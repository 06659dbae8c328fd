"""Whether a loaded model is what its checkpoint says, and a causal language model.

Transformers draws at random whatever a checkpoint lacks; here that ends the loading. Knows loaded
models; refuses to know files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from harness.core.errors import ModelError
from harness.engine.local.finiteness import remedy
from harness.engine.local.model_files import shown
from harness.engine.local.transformers_internals import text_config

TOLERANCE = {torch.float32: 1e-4}
HALF_TOLERANCE = 0.02
"""Largest root-mean-square change of logits by later tokens, as a share of their standard deviation."""
PROBE_TOKENS = 24


def check_tensors(path: str, model: Any, info: Mapping[str, Any]) -> None:
    """Refuse a model that has tensors which the checkpoint lacks, or the other way round.

    What an architecture itself leaves out of its checkpoints or passes over in them (buffers, tied
    weights) is no fault.

    Args:
        path: of the model.
        model: as loaded.
        info: `missing_keys`, `unexpected_keys` and `mismatched_keys`, as transformers says.

    Raises:
        ModelError: with the names of the first few.
    """
    missing, mismatched = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    buffers = {name.rsplit(".", 1)[-1] for name, _ in model.named_buffers()}
    unexpected = sorted(name for name in info["unexpected_keys"] if name.rsplit(".", 1)[-1] not in buffers)
    found = []
    if missing:
        found.append(f"{_tensors(missing)} missing, which would be random: {shown(missing)}")
    if unexpected:
        found.append(f"{_tensors(unexpected)} that the model does not have: {shown(unexpected)}")
    if mismatched:
        shapes = [f"{name} {_shape(stored)} instead of {_shape(own)}" for name, stored, own in mismatched]
        found.append(f"{_tensors(mismatched)} of another shape: {shown(shapes)}")
    if found:
        raise ModelError(
            f"model '{path}' ({type(model).__name__}) does not fit its weights: {'; '.join(found)}; "
            f"{_tensor_remedy(missing, unexpected, bool(mismatched))}"
        )


def _tensor_remedy(missing: list[str], unexpected: list[str], mismatched: bool) -> str:
    wrapped = (
        "_orig_mod.",
        "module.",
        "model.module.",
        "base_model.model.",
        "_fsdp_wrapped_module.",
        "_forward_module.",
    )
    prefix = next((p for p in wrapped if unexpected and all(name.startswith(p) for name in unexpected)), None)
    if prefix is not None:
        return (
            f"save the model itself, not its wrapper: take '{prefix}' off the names, or call save_pretrained unwrapped"
        )
    if any("lora_" in name for name in unexpected):
        return "merge the adapter first (peft: merge_and_unload, then save_pretrained)"
    if missing and all("head" in name or "embed_out" in name for name in missing):
        return (
            "give a checkpoint with its language-model head (a classifier or a bare backbone has none), or set "
            "tie_word_embeddings=true in config.json if its head is its embedding"
        )
    if mismatched and not missing and not unexpected:
        return "config.json belongs to another model or size; take the one that was saved with the weights"
    return "give the checkpoint whole, with the config.json that was saved with it"


def check_weights_are_finite(path: str, model: Any) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        ModelError: with the names of the first few, and the number format where that is the cause.
    """
    broken = [name for name, weight in model.named_parameters() if not _is_finite(weight)]
    if broken:
        dtype = str(model.dtype).removeprefix("torch.")
        raise ModelError(
            f"model '{path}': {_tensors(broken)} with NaN or infinite weights in {dtype}: {shown(broken)}; "
            f"{remedy(model.dtype)}"
        )


def _is_finite(weight: torch.Tensor) -> bool:
    if not weight.is_floating_point() or not weight.numel() or weight.device.type == "meta":
        return True
    least, most = torch.aminmax(weight.detach())
    return math.isfinite(float(least)) and math.isfinite(float(most))


@torch.inference_mode()
def check_is_causal(path: str, model: Any) -> None:
    """Refuse a model whose logits at a token depend on later tokens, or are no numbers at all.

    Args:
        path: of the model.
        model: loaded, with an attention of transformers' own.

    Raises:
        ModelError: it is no causal language model, or overflows its number format.
    """
    device = model.get_input_embeddings().weight.device
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    limit = getattr(text_config(model.config), "max_position_embeddings", None)
    size = PROBE_TOKENS if limit is None or limit < 2 else min(PROBE_TOKENS, limit)
    half = size // 2
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (size,), generator=generator)
    other = ids.clone()
    other[half:] = (ids[half:] + 1 + torch.randint(vocabulary - 1, (size - half,), generator=generator)) % vocabulary
    try:
        first, second = (
            model(input_ids=row[None].to(device), use_cache=False).logits[0].float() for row in (ids, other)
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"model '{path}' ({type(model).__name__}) cannot compute {size} tokens: {type(error).__name__}: {reason}; "
            "expected a causal language model that takes token ids alone"
        ) from None
    dtype = str(model.dtype).removeprefix("torch.")
    if not first.isfinite().any():
        raise ModelError(f"model '{path}': its logits are NaN or infinite in {dtype}; {remedy(model.dtype)}")
    change = (first[:half] - second[:half]).pow(2).mean(-1).sqrt()
    spread = first[:half].std(-1)
    allowed = TOLERANCE.get(model.dtype, HALF_TOLERANCE)
    share = (change / spread.clamp_min(torch.finfo(torch.float32).tiny)).nan_to_num(0.0)
    if float(share.max()) > allowed:
        raise ModelError(
            f"model '{path}' ({type(model).__name__}) is no causal language model: a later token changes the logits of "
            f"earlier ones by {float(share.max()):.2g} of their spread; expected a decoder such as GPT, Llama or Qwen"
        )


def _tensors(names: list[Any]) -> str:
    return f"{len(names)} tensor{'s' if len(names) != 1 else ''}"


def _shape(sizes: Any) -> str:
    return "x".join(str(size) for size in sizes) or "()"
