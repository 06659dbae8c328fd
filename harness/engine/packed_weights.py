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
import sys
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

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
"""Linux's MADV_PAGEOUT: the pages are not needed for now; they come back from their file when they are."""
TRIED_ROWS = 32
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}
"""Largest difference from torch's own product, as a share of the largest output."""


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


@torch.inference_mode()
def pack_weights(model: Any) -> int:
    """Pack the linear maps of a model's backbone where they lie on a CPU; the others stay as they are.

    Args:
        model: a transformers causal language model that will be used for inference only. Its weights can
            neither be saved nor moved afterwards.

    Returns:
        How many were packed.
    """
    owners: dict[int, int] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            owners[id(weight)] = owners.get(id(weight), 0) + 1
    count = 0
    for parent in list(model.base_model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) not in (torch.nn.Linear, Conv1D) or owners[id(child.weight)] > 1:
                continue
            packed = _packed(child)
            if packed is not None:
                setattr(parent, name, packed)
                _page_out(child.weight)
                count += 1
    return count


def _packed(module: Any) -> PackedLinear | None:
    weight: Tensor = module.weight.detach()
    if weight.device.type != "cpu" or weight.dtype not in TOLERANCE:
        return None
    if weight.dtype == torch.float32 and weight.numel() > MOST_FLOAT32:
        return None
    if isinstance(module, Conv1D):
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


def _page_out(weight: Tensor) -> None:
    """Let the system take back the memory of a weight that lies in a mapped file.

    The whole file stays mapped as long as one of its weights is in use. Nothing is lost where something else uses
    the same memory, and nothing happens where the system does not know the advice.
    """
    if sys.platform != "linux":
        return
    begin = -(-weight.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = weight.data_ptr() + weight.nbytes - begin
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), PAGE_OUT)
