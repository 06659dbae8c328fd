"""The load-time check that a model can be scored over a prefix tree.

A small tree of random tokens is scored packed and prompt by prompt. Models whose attention
does not go through transformers' interface, or that carry state other than attention,
differ and are then scored unshared. Where half precision alone moves logits as far, a copy
in float32 decides.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from harness.core.errors import ModelError, SharingError
from harness.engine.local.attention.cache import Kept
from harness.engine.local.attention.choice import PARTS, Kernel
from harness.engine.local.attention.rules import hides, narrow_windows
from harness.engine.local.attention.tree_attention import NAME
from harness.engine.local.device_errors import breaks_the_device
from harness.engine.local.layers.compiled import NOT_COMPILED, CompiledLayers
from harness.engine.local.layers.head import last_logits
from harness.engine.local.rope_regimes import MARGIN, Regimes
from harness.engine.local.scorer import Scorer
from harness.engine.local.transformers_internals import attention_of, text_config
from harness.engine.local.tree.packing import make_packs
from harness.engine.local.tree.tree import build_tree

TOLERANCE = {torch.float32: 1e-3}
HALF_TOLERANCE = 0.1
"""Largest root-mean-square difference of logits, as a share of their standard deviation."""
FREE_SHARE = 0.8
"""Of free memory that a copy in float32 may take."""
TRUNK_TOKENS, LEAF_TOKENS = 144, (9, 14, 21, 5)
"""On a GPU, where more lengths try more blocks of a kernel."""
CPU_TRUNK_TOKENS, CPU_LEAF_TOKENS = 64, (9, 21)
"""Two fifths of the tokens: a billion weights without AMX take many seconds for them."""
DIFFERENT_TOKENS = 64
CHECKED_WINDOW = 64
"""A window that prompts are longer than is checked at this size at most: the check's own texts are longer."""


class LogitsDiffer(str):
    """A reason that the rounding of a half-precision model may explain: see `rounding_alone`."""


def sharing_error(
    model: Any, longest_prompt: int, kernel: Kernel = PARTS, compiled: CompiledLayers = NOT_COMPILED
) -> str | None:
    """Why this model cannot share prefixes, or None when it can.

    Args:
        model: a loaded causal language model.
        longest_prompt: tokens of the longest prompt; a shorter sliding window is for packs in plain operations alone.
        kernel: that packs will attend by.
        compiled: layers that packs will use.
    """
    hidden = hides(text_config(model.config), longest_prompt)
    if hidden and kernel is not PARTS:
        return f"its sliding window is shorter than the longest prompt ({longest_prompt} tokens)"
    regimes = Regimes(model)
    if regimes.differ_within(longest_prompt + MARGIN):
        return (
            f"its rotary positions change beyond {regimes.limit} tokens, the longest prompt may have {longest_prompt}"
        )
    plain = attention_of(model)
    plain = "sdpa" if plain == NAME else plain
    model.set_attn_implementation(plain)
    try:
        with narrow_windows(model, CHECKED_WINDOW if hidden else longest_prompt):
            difference = _difference(model, kernel, compiled)
    except Exception as error:
        if breaks_the_device(error):
            raise
        return f"its attention cannot be packed ({type(error).__name__}: {error})"
    finally:
        model.set_attn_implementation(plain)
    allowed = TOLERANCE.get(model.dtype, HALF_TOLERANCE)
    if not difference <= allowed:
        return LogitsDiffer(
            f"packed and plain logits differ by {difference:.2g} of their spread (at most {allowed:.2g} allowed)"
        )
    return None


def rounding_alone(model: Any, longest_prompt: int, load: Callable[[], Any]) -> bool:
    """Whether a half-precision model's logits differ by rounding alone: in float32 its architecture can share.

    Activations of some models are so large that bfloat16 moves their logits by 0.3 of their spread however they are
    computed; Gemma 3 is one. Packing in plain operations only is judged here, since fast kernels need half precision.

    Args:
        model: in half precision, for which `sharing_error` said `LogitsDiffer`.
        longest_prompt: tokens.
        load: the same model in float32, on the same device. Not called where that would not fit into free memory.
    """
    weights = list(model.parameters())
    devices = {weight.device for weight in weights}
    needed = 4 * sum(weight.numel() for weight in weights)
    if model.dtype in TOLERANCE or len(devices) > 1 or needed > FREE_SHARE * _free_bytes(devices.pop()):
        return False
    try:
        return sharing_error(load(), longest_prompt) is None
    except ModelError:
        return False
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil  # absent on bare GPU machines

    return int(psutil.virtual_memory().available)


@torch.inference_mode()
def _difference(model: Any, kernel: Kernel, compiled: CompiledLayers) -> float:
    rng = np.random.default_rng(0)
    limit = Regimes(model).limit or getattr(model.config, "max_position_embeddings", None) or 2048
    on_gpu = model.get_input_embeddings().weight.device.type == "cuda"
    most, leaf_sizes = (TRUNK_TOKENS, LEAF_TOKENS) if on_gpu else (CPU_TRUNK_TOKENS, CPU_LEAF_TOKENS)
    trunk_size = max(2, min(most, limit - 32))
    vocabulary = model.get_input_embeddings().weight.shape[0]
    # Few different tokens: what was looked up wrongly for one that comes again shows.
    known = rng.integers(0, vocabulary, DIFFERENT_TOKENS)
    trunk = rng.choice(known, trunk_size).tolist()
    sequences = []
    for depth in (0, trunk_size // 4, trunk_size):
        header = rng.choice(known, 5).tolist()
        sequences += [trunk[:depth] + header + rng.choice(known, size).tolist() for size in leaf_sizes]
    plain = torch.stack([last_logits(model, _ids(model, s)).float() for s in sequences])
    packed = torch.empty_like(plain)
    scorer = Scorer(model, trunk_size + 64, True, kernel, compiled)
    model.set_attn_implementation(NAME)
    tree = build_tree(sequences)
    kept: Kept = {}
    for pack in make_packs(tree, sequences, scorer.tokens_per_pack):
        read: dict[int, int] = {}
        for index, sequence in enumerate(sequences):
            path, offset = tree.locate(index, len(sequence) - 1)
            if pack.first_path <= path < pack.last_path:
                read[index] = pack.offsets[path - pack.first_path] + offset
        hidden, kept = scorer.forward_pack(pack, kept, list(read.values()))
        if len(kept) != model.config.num_hidden_layers:
            raise SharingError(
                f"{len(kept)} of its {model.config.num_hidden_layers} layers use transformers' attention interface"
            )
        if read:
            packed[list(read)] = scorer.head(hidden[list(read.values())]).float()
    if not scorer.plain_logits:
        raise SharingError("the model changes its logits after the head")
    spread = plain.std(-1)
    return float(((packed - plain).pow(2).mean(-1).sqrt() / spread).max())


def _ids(model: Any, sequence: list[int]) -> torch.Tensor:
    return torch.tensor([sequence], device=model.get_input_embeddings().weight.device)
