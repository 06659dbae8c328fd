"""The kernels that tree attention can run on, and which of them a replica uses.

On a GPU the choice is by measurement, when the model is loaded: every kernel that can run there
attends over a synthetic pack of the model's shape; those that agree with float32 attention in
plain operations are timed, and the fastest is kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from harness.engine.local.attention.cache import Kept
from harness.engine.local.attention.cascade import CascadeKernel, why_not_flash
from harness.engine.local.attention.flex import FlexKernel, why_not_flex
from harness.engine.local.attention.tree_attention import Needed, PackState, State
from harness.engine.local.device_errors import breaks_the_device, give_memory_back
from harness.engine.local.transformers_internals import text_config
from harness.engine.local.tree.packing import Pack, make_packs
from harness.engine.local.tree.tree import build_tree

log = logging.getLogger(__name__)
LEAF_TOKENS = 26
TRUNK_PLACES = 7
"""The synthetic tree: leaves of a review's length at so many places of one trunk."""
PARITY_TOKENS = 1024
"""Tokens of the pack that is held against float32; timing takes full packs."""
REPEATS = 3
TOLERANCE = {torch.float32: 1e-4}
HALF_TOLERANCE = 0.02
"""Largest root-mean-square difference from float32 attention, as a share of its spread."""


class PackAttention(State, Protocol):
    """How one pack attends, and what it leaves for later ones."""

    @property
    def keep(self) -> Kept:
        """Keys and values for the next pack."""
        ...


class Kernel(Protocol):
    """Begins packs. The one place where the engine meets a way to compute attention."""

    @property
    def name(self) -> str:
        """For log and manifest."""
        ...

    def begin(self, pack: Pack, kept: Kept, needed: Needed | None = None) -> PackAttention:
        """The state of one forward pass.

        Args:
            pack: the layout.
            kept: per layer, keys and values of earlier packs.
            needed: rows of one layer that matter; a kernel may compute the others all the same.
        """
        ...


class PartsKernel:
    """One call per part of the tree: for CPUs, and wherever nothing faster can be had."""

    name = "parts"

    def begin(self, pack: Pack, kept: Kept, needed: Needed | None = None) -> PackState:
        """See `Kernel.begin`."""
        return PackState(pack, kept, needed)


PARTS = PartsKernel()


@dataclass(frozen=True)
class AttentionShape:
    """One layer's attention."""

    heads: int
    kv_heads: int
    head_size: int
    dtype: torch.dtype


@dataclass(frozen=True)
class KernelChoice:
    """The kernel of a replica and how it was chosen.

    Attributes:
        kernel: to use.
        notice: why the plain parts serve on a GPU; None when a better kernel does.
        remarks: per kernel that was not chosen, why.
        seconds: per kernel that was timed, one layer's attention over a full pack.
        warmup_s: seconds that compiling and choosing took.
    """

    kernel: Kernel
    notice: str | None
    remarks: dict[str, str]
    seconds: dict[str, float]
    warmup_s: float


def shape_of(model: Any) -> AttentionShape:
    """The attention of a transformers model's layers."""
    config = text_config(model.config)
    heads = getattr(config, "num_attention_heads", 1)
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return AttentionShape(heads, kv_heads, size, model.dtype)


def candidates(
    shape: AttentionShape, tokens_per_pack: int, device: torch.device
) -> tuple[list[Kernel], dict[str, str]]:
    """Kernels that should run on a device, and why others should not."""
    refused = {
        CascadeKernel.name: why_not_flash(device, shape.dtype, shape.head_size),
        FlexKernel.name: why_not_flex(device),
    }
    made: list[Kernel] = [CascadeKernel(), FlexKernel(tokens_per_pack)]
    able = [kernel for kernel in made if refused[kernel.name] is None]
    return [*able, PARTS], {name: reason for name, reason in refused.items() if reason is not None}


def choose_kernel(
    shape: AttentionShape,
    tokens_per_pack: int,
    longest_prompt: int,
    device: torch.device,
    kernels: Sequence[Kernel] | None = None,
    seconds_of: Callable[[Callable[[], None]], float] | None = None,
) -> KernelChoice:
    """The fastest kernel that computes the right thing.

    Args:
        shape: of the model's attention.
        tokens_per_pack: of a full pack.
        longest_prompt: tokens; the synthetic trunk is as long, up to a pack.
        device: of the model. A CPU takes the parts without a measurement.
        kernels: to choose from; None takes `candidates`.
        seconds_of: times a call; None takes the median of three on the device.
    """
    remarks: dict[str, str] = {}
    if kernels is None:
        if device.type != "cuda":
            return KernelChoice(PARTS, None, {}, {}, 0.0)
        kernels, remarks = candidates(shape, tokens_per_pack, device)
    measure = seconds_of or (lambda call: _seconds(call, device))
    started = time.monotonic()
    trunk = max(TRUNK_PLACES, min(longest_prompt, tokens_per_pack // 2))
    small = _Trial(shape, min(PARITY_TOKENS, tokens_per_pack), min(trunk, PARITY_TOKENS // 2), device)
    full = _Trial(shape, tokens_per_pack, trunk, device)
    expected = small.attend(PARTS, torch.float32)
    seconds: dict[str, float] = {}
    for kernel in kernels:
        try:
            error = _difference(small.attend(kernel, shape.dtype), expected)
            allowed = TOLERANCE.get(shape.dtype, HALF_TOLERANCE)
            if not error <= allowed:
                remarks[kernel.name] = (
                    f"differs from float32 by {error:.2g} of its spread (at most {allowed:g} allowed)"
                )
                continue
            full.attend(kernel, shape.dtype)
            seconds[kernel.name] = measure(lambda kernel=kernel: full.run(kernel, shape.dtype))  # type: ignore[misc]
        except Exception as failure:
            if breaks_the_device(failure):
                raise
            remarks[kernel.name] = f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}"
            log.warning("%s attention fails and is not used: %s", kernel.name, remarks[kernel.name])
            give_memory_back(failure)
    by_name = {kernel.name: kernel for kernel in kernels}
    chosen = by_name[min(seconds, key=seconds.__getitem__)] if seconds else PARTS
    for name, taken in seconds.items():
        if name != chosen.name:
            remarks[name] = f"slower: {taken * 1e3:.2f} ms a layer and pack against {seconds[chosen.name] * 1e3:.2f}"
    notice = None
    if chosen is PARTS:
        others = "; ".join(f"{name}: {reason}" for name, reason in remarks.items() if name != PARTS.name)
        notice = f"no faster attention than plain operations: {others}" if others else None
    return KernelChoice(chosen, notice, remarks, seconds, time.monotonic() - started)


class _Trial:
    """Two packs of a synthetic tree, the second with keys kept from the first, and random vectors."""

    def __init__(self, shape: AttentionShape, tokens_per_pack: int, trunk: int, device: torch.device) -> None:
        rng = np.random.default_rng(0)
        stem = rng.integers(0, 2**30, trunk).tolist()
        n_leaves = max(2 * TRUNK_PLACES, 2 * tokens_per_pack // LEAF_TOKENS)
        depths = [trunk * (1 + i * TRUNK_PLACES // n_leaves) // TRUNK_PLACES for i in range(n_leaves)]
        leaves = [stem[:depth] + rng.integers(2**30, 2**31 - 1, LEAF_TOKENS).tolist() for depth in depths]
        self.packs = list(make_packs(build_tree(leaves), leaves, tokens_per_pack))[:2]
        # On the device: a full pack takes some 200 million numbers.
        generator = torch.Generator(device).manual_seed(0)
        self.vectors = [
            [torch.randn(heads, len(pack.tokens), shape.head_size, generator=generator, device=device)
             for heads in (shape.heads, shape.kv_heads, shape.kv_heads)]
            for pack in self.packs
        ]  # fmt: skip
        self.scale = shape.head_size**-0.5

    @torch.inference_mode()
    def attend(self, kernel: Kernel, dtype: torch.dtype) -> torch.Tensor:
        """Outputs of all packs, `(heads, n_tokens, head_size)`."""
        kept: Kept = {}
        outputs = []
        for pack, vectors in zip(self.packs, self.vectors, strict=True):
            state = kernel.begin(pack, kept)
            query, key, value = (x.to(dtype) for x in vectors)
            outputs.append(state.attend(0, query, key, value, self.scale))
            kept = state.keep
        return torch.cat(outputs, 1)

    def run(self, kernel: Kernel, dtype: torch.dtype) -> None:
        """The same for its time alone."""
        self.attend(kernel, dtype)


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    apart = (found.double() - expected.double()).pow(2).mean().sqrt()
    return float(apart / expected.double().std())


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    """Median time of a call on a device."""
    times = []
    for _ in range(REPEATS):
        _wait(device)
        started = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
