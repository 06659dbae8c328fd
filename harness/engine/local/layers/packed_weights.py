"""Weights on a CPU laid out once as oneDNN's matrix products want them.

torch's linear maps bring every weight into that order anew for each product, or leave it to MKL, and write the bias
into the output before they add to it. With weights packed beforehand neither happens. Sums do not depend on how many
rows or threads take part in float32 (`tests/test_packed_weights.py`).
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from harness.engine.local.transformers_internals import TRANSPOSED_LINEAR

Tensor = torch.Tensor
log = logging.getLogger(__name__)
MOST_FLOAT32 = 2**21
"""Larger float32 weights are left to MKL, whose products of a pack of tokens are up to 8% faster there."""
ROWS = 2048
"""Of the products for which weights are laid out; others may be smaller or larger."""
CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""oneDNN's and torch's variables for how many compiled products they keep, half a MiB each."""
KEPT_PRODUCTS = 128
PAGE_OUT = 21
"""Linux's MADV_PAGEOUT: take the pages back at once; whoever reads them again gets them from their file."""
MAPS = Path("/proc/self/maps")
TRIED_ROWS = 32
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}
"""Largest difference from torch's own product, as a share of the largest output."""
PASS_TOLERANCE = {torch.float32: 1e-2}
HALF_PASS_TOLERANCE = 1.0
"""Largest difference of a hidden state after packing, as a share of the spread of all: what wrong weights exceed."""


class PackedLinear(torch.nn.Linear):
    """A linear map that takes and gives what `torch.nn.Linear` does, its weights in oneDNN's layout.

    Args:
        weight: `(out_features, in_features)`, on a CPU.
        bias: `(out_features,)` or None.

    Raises:
        RuntimeError: the processor or this build of torch has no such product.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        torch.nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.register_parameter("bias", None if bias is None else torch.nn.Parameter(bias, requires_grad=False))

    def forward(self, input: Tensor) -> Tensor:
        """See `torch.nn.Linear`."""
        return self.product(input, self.bias)

    def product(self, input: Tensor, bias: Tensor | None) -> Tensor:
        """The same with another bias, or none."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, bias, "none", [], "")
        return found


def bound_compiled_products() -> None:
    """Keep few compiled products, before the first one of the process; values in the environment stay.

    One is compiled for each shape of weights and number of rows. The default of 1,024 takes half a GiB.
    """
    for variable in CACHES:
        os.environ.setdefault(variable, str(KEPT_PRODUCTS))


def pack_weights(model: Any) -> int:
    """Pack the linear maps of a model's backbone where they lie on a CPU; the others stay as they are.

    Packed are maps that a short pass calls, whose weights no other map has. Some models read weights besides (the
    state-space models do): the pass is run again afterwards, and where it fails or gives something else the
    model must be loaded anew.

    Args:
        model: a transformers causal language model that will be used for inference only. Its weights can
            neither be saved nor moved afterwards.

    Returns:
        How many were packed.

    Raises:
        PackingError: the model does not work any more.
    """
    if model.get_input_embeddings().weight.device.type != "cpu":
        return 0
    owners: dict[int, int] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            owners[id(weight)] = owners.get(id(weight), 0) + 1
    called: set[torch.nn.Module] = set()
    with ExitStack() as hooks:
        for module in model.base_model.modules():
            if type(module) in (torch.nn.Linear, *TRANSPOSED_LINEAR):
                hooks.callback(module.register_forward_hook(lambda module, *_: called.add(module)).remove)
        before = _short_pass(model)
    if before is None:
        return 0
    count = 0
    mapped = mapped_files()
    for parent in list(model.base_model.modules()):
        for name, child in list(parent.named_children()):
            if child not in called or owners[id(child.weight)] > 1:
                continue
            packed = _packed(child)
            if packed is not None:
                setattr(parent, name, packed)
                page_out(child.weight, mapped)
                count += 1
    if count:
        after = _short_pass(model)
        allowed = PASS_TOLERANCE.get(model.dtype, HALF_PASS_TOLERANCE) * before.std()
        if after is None or not (after - before).abs().max() <= allowed:
            raise PackingError
    return count


class PackingError(Exception):
    """A model does not work with packed weights."""


@torch.inference_mode()
def _short_pass(model: Any) -> Tensor | None:
    """Hidden states after a few tokens, float32; None where the model does not run by itself."""
    embeddings = model.get_input_embeddings().weight
    ids = torch.arange(1, 9, device=embeddings.device)[None] % embeddings.shape[0]
    try:
        hidden: Tensor = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    except (RuntimeError, AttributeError, TypeError):
        return None
    return hidden.float()


@torch.inference_mode()
def _packed(module: Any) -> PackedLinear | None:
    weight: Tensor = module.weight.detach()
    if weight.device.type != "cpu" or weight.dtype not in TOLERANCE:
        return None
    if weight.dtype == torch.float32 and weight.numel() > MOST_FLOAT32:
        return None
    if isinstance(module, TRANSPOSED_LINEAR):
        weight = weight.t().contiguous()
    bias = None if module.bias is None else module.bias.detach()
    rows = torch.linspace(-1, 1, TRIED_ROWS * weight.shape[1], dtype=weight.dtype).view(TRIED_ROWS, -1)
    try:
        packed = PackedLinear(weight, bias)
        found = packed(rows)
    except (RuntimeError, AttributeError) as error:
        log.debug("weights are not packed: %s", error)
        return None
    expected = torch.nn.functional.linear(rows, weight, bias)
    apart, allowed = (found - expected).abs().max(), TOLERANCE[weight.dtype] * expected.abs().max()
    return packed if apart <= allowed else None


def mapped_files() -> list[range]:
    """Addresses of this process where files lie, as Linux tells them; none elsewhere."""
    found = []
    if MAPS.exists():
        for line in MAPS.read_text().splitlines():
            addresses, _, _, _, inode = line.split(maxsplit=5)[:5]
            if inode != "0":
                first, _, last = addresses.partition("-")
                found.append(range(int(first, 16), int(last, 16)))
    return found


def page_out(weight: Tensor, mapped: list[range]) -> None:
    """Let the system take back the memory of a weight that lies in a mapped file.

    The whole file stays mapped as long as one of its weights is in use. Nothing is lost where something else uses
    the same memory, and nothing happens where the system does not know the advice.
    """
    begin = -(-weight.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = weight.data_ptr() + weight.nbytes - begin
    if length > 0 and any(begin in place for place in mapped):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), PAGE_OUT)
