"""Loads a model into a scorer: checks sharing, sets threads and the pack size."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from harness.engine.local import memory
from harness.engine.local.attention.choice import PARTS, Kernel, KernelChoice, candidates, choose_kernel, shape_of
from harness.engine.local.attention.flex import FlexKernel
from harness.engine.local.facts import LocalFacts
from harness.engine.local.host import favour_launches, let_go
from harness.engine.local.layers.compiled import NOT_COMPILED, CompiledLayers, compile_middle_layers
from harness.engine.local.layers.packed_weights import PackingError, bound_compiled_products, pack_weights
from harness.engine.local.layers.reproducibility import fix_order_of_sums
from harness.engine.local.loading import ModelSpec, load_model
from harness.engine.local.parity import LogitsDiffer, rounding_alone, sharing_error
from harness.engine.local.scorer import Scorer
from harness.engine.local.transformers_internals import text_config

log = logging.getLogger(__name__)
FREE_SHARE = 0.8
"""Of a GPU's free memory that a pack is planned to take; the rest is for fragmentation."""
LEAST_COMPILED_WORK = 1e15
"""Operations from which compiling pays: an H100 does fewer in 5 s, and compiling took it 25 s even for a tiny model."""


def load_engine(
    spec: ModelSpec,
    share_prefixes: bool,
    tokens_per_pack: int | None,
    longest_prompt: int,
    threads: int | None,
    tokens: int | None = None,
) -> tuple[Scorer, LocalFacts]:
    """A scorer ready for work.

    Args:
        spec: the model.
        share_prefixes: share when the model passes the parity check.
        tokens_per_pack: None chooses by device and free memory.
        longest_prompt: tokens, for models with a sliding window.
        threads: CPU threads of this process; None leaves torch's choice.
        tokens: that are to be computed in all, where that is known: for few of them nothing is compiled.

    Raises:
        ModelError: the model does not load.
    """
    let_go()
    fix_order_of_sums()
    bound_compiled_products()
    if threads is not None:
        torch.set_num_threads(threads)
    model = load_model(spec)
    try:
        n_packed = pack_weights(model)
    except PackingError:
        del model
        model, n_packed = load_model(spec), 0
    size = tokens_per_pack or _tokens_per_pack(model, longest_prompt, share_prefixes)
    started = time.monotonic()
    too_little = _too_little_to_compile(model, tokens)
    kernels = _kernels_as_they_are(model, size) if too_little else None
    choice, notice = _choose_sharing(model, spec, size, longest_prompt, kernels) if share_prefixes else (None, None)
    shares = choice is not None and notice is None
    kernel = choice.kernel if choice is not None else PARTS
    compiled = NOT_COMPILED
    if shares:
        compiled = CompiledLayers(notice=too_little) if too_little else _compile(model, longest_prompt, kernel)
    scorer = Scorer(model, size, shares, kernel, compiled)
    facts = LocalFacts(
        _device_name(scorer.device),
        str(model.dtype).removeprefix("torch."),
        shares,
        size,
        notice,
        torch.get_num_threads(),
        scorer.kernel.name,
        choice.notice if choice is not None and shares else None,
        choice.seconds if choice is not None else {},
        time.monotonic() - started,
        n_packed,
        compiled.layers,
        compiled.notice,
        compiled.seconds,
    )
    if scorer.device.type == "cuda":
        favour_launches()
    return scorer, facts


def _compile(model: Any, longest_prompt: int, kernel: Kernel) -> CompiledLayers:
    """Compiled middle layers where a GPU runs the model: on a CPU there is little to gain, and last bits would move."""
    if model.get_input_embeddings().weight.device.type != "cuda":
        return NOT_COMPILED
    return compile_middle_layers(model, lambda compiled: sharing_error(model, longest_prompt, kernel, compiled))


def _too_little_to_compile(model: Any, tokens: int | None) -> str | None:
    """Why the compiler is left alone although a GPU runs the model; None where it is not."""
    if tokens is None or model.get_input_embeddings().weight.device.type != "cuda":
        return None
    work = 2 * sum(weight.numel() for weight in model.parameters()) * tokens
    if work >= LEAST_COMPILED_WORK:
        return None
    return f"all {tokens:,} tokens take {work:.1g} operations, which is over before layers and attention are compiled"


def _kernels_as_they_are(model: Any, tokens_per_pack: int) -> list[Kernel]:
    """Those that need no compiler: the flash attention of torch where it can be had, else plain operations."""
    able, _ = candidates(shape_of(model), tokens_per_pack, model.get_input_embeddings().weight.device)
    return [kernel for kernel in able if not isinstance(kernel, FlexKernel)]


def _choose_sharing(
    model: Any,
    spec: ModelSpec,
    tokens_per_pack: int,
    longest_prompt: int,
    kernels: Sequence[Kernel] | None = None,
) -> tuple[KernelChoice, str | None]:
    """The attention kernel for shared prefixes, and why this model cannot share them all the same.

    Args:
        model: the model.
        spec: by which it was loaded.
        tokens_per_pack: of a full pack.
        longest_prompt: tokens.
        kernels: to choose from; None takes all that can run there.
    """
    device = model.get_input_embeddings().weight.device
    choice = choose_kernel(shape_of(model), tokens_per_pack, longest_prompt, device, kernels)
    notice = sharing_error(model, longest_prompt, choice.kernel)
    if notice is None:
        return choice, None
    if choice.kernel is not PARTS:
        # Kernels were compared on random vectors; only the whole model shows what else it does.
        choice = replace(choice, kernel=PARTS, notice=f"with {choice.kernel.name} attention {notice}")
        notice = sharing_error(model, longest_prompt, PARTS)
    if isinstance(notice, LogitsDiffer):
        exact = replace(spec, dtype="float32")
        if rounding_alone(model, longest_prompt, lambda: load_model(exact)):
            log.info("%s: %s; in float32 they agree, so that is rounding, and prefixes are shared", spec.path, notice)
            notice = None
    return choice, notice


def _tokens_per_pack(model: Any, longest_prompt: int, shares: bool) -> int:
    device = model.get_input_embeddings().weight.device
    if device.type != "cuda":
        return memory.CPU_TOKENS_PER_PACK
    shape = memory.shape_of_config(text_config(model.config), sum(p.numel() for p in model.parameters()))
    least, most = memory.GPU_TOKENS_PER_PACK
    if shape is None:
        return least
    free, _ = torch.cuda.mem_get_info(device)
    dtype = str(model.dtype).removeprefix("torch.")
    return memory.tokens_that_fit(shape, dtype, shares, longest_prompt, int(FREE_SHARE * free), least, most)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
