"""Tree attention as one call of compiled FlexAttention.

The keys of a pack are its own rows, padded, and then those kept from earlier packs, padded; a
block mask says which row sees which key. Shapes come from a short list, so that a handful of
compilations serves a whole run.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from harness.engine.local.attention.cache import Kept, Layer, kept_for_later, layer_of
from harness.engine.local.attention.tree_attention import Needed
from harness.engine.local.transfer import to_device
from harness.engine.local.tree.packing import Pack
from harness.engine.local.tree.visibility import blocks_of, kept_above, visible_rows

Tensor = torch.Tensor
BLOCK = 128
"""Rows and keys of one block of the mask."""
KEPT_STEP = 1024
"""Kept keys are padded to this many, or to twice, four times, ... as many."""
LEAST_HEAD_SIZE = 16
"""FlexAttention takes no smaller heads; they are padded. So are float32 heads to a power of two: those of 80 and 96
would keep 7 KB a thread in slow memory, and need more shared memory than compute capability 8.0 has."""
MOST_SHAPES = 64
"""Compilations of one process; torch's own limit of 8 would fall back to unfused attention, silently slow."""
TYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_not_flex(device: torch.device) -> str | None:
    """Why FlexAttention cannot be compiled on a device, or None when it should."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed"
        major, minor = torch.cuda.get_device_capability(device)
        return None if major >= 7 else f"compute capability {major}.{minor} is below 7.0"
    if not any(shutil.which(name) for name in ("g++", "clang++")):
        return "there is no C++ compiler"
    return None


class FlexKernel:
    """Begins packs that attend by FlexAttention.

    Args:
        tokens_per_pack: tokens of a usual pack; rows are padded to it.
        compiled: False runs FlexAttention's unfused form, for tests.
    """

    name = "flex"

    def __init__(self, tokens_per_pack: int, compiled: bool = True) -> None:
        self.rows = -(-tokens_per_pack // BLOCK) * BLOCK
        self.shapes: set[tuple[Any, ...]] = set()
        self.function: Callable[..., Tensor] = flex_attention
        if compiled:
            self.function = torch.compile(flex_attention, dynamic=False)
        self.compiled = compiled

    def begin(self, pack: Pack, kept: Kept, needed: Needed | None = None) -> FlexState:
        """The state of one forward pass."""
        return FlexState(self, pack, kept)

    def padded_rows(self, n: int) -> int:
        """Rows of a pack of n tokens; a path longer than a pack doubles them."""
        return _doubled(self.rows, n)

    def call(self, query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float) -> Tensor:
        """Attention of padded tensors `(1, heads, rows or keys, head_size)`."""
        grouped = query.shape[1] != key.shape[1]
        shape = (query.device, query.dtype, query.shape, key.shape, value.shape, scale)
        if not self.compiled or shape in self.shapes:
            return self.function(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped)
        with torch._dynamo.config.patch(recompile_limit=MOST_SHAPES, fail_on_recompile_limit_hit=True):
            output = self.function(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped)
        self.shapes.add(shape)
        return output


class FlexState:
    """How one pack attends; see `harness.engine.local.attention.tree_attention.State`."""

    exact = False

    def __init__(self, kernel: FlexKernel, pack: Pack, kept: Kept) -> None:
        self.kernel = kernel
        self.pack = pack
        self.kept = kept
        self.keep: dict[int, Layer] = {}
        self.above = kept_above(pack)
        self.n_rows = kernel.padded_rows(len(pack.tokens))
        n_kept = sum(n for _, n in self.above)
        self.n_keys = self.n_rows + (_doubled(KEPT_STEP, n_kept) if n_kept else 0)
        self._masks: dict[torch.device, BlockMask] = {}
        self._buffers: dict[tuple[Any, ...], Tensor] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `State.attend`."""
        kept = layer_of(self.kept, layer)
        above = [kept[path] for path, _ in self.above]
        sizes = [n for _, n in self.above]
        output = self.kernel.call(
            self._padded("query", self.n_rows, query, [], []),
            self._padded("key", self.n_keys, key, [keys for keys, _ in above], sizes),
            self._padded("value", self.n_keys, value, [values for _, values in above], sizes),
            self._mask(query.device),
            scale,
        )
        self.keep[layer] = kept_for_later(self.pack, kept, key, value)
        return output[0, :, : query.shape[1], : value.shape[2]].to(query.dtype)

    def _padded(self, name: str, length: int, own: Tensor, above: list[Tensor], sizes: list[int]) -> Tensor:
        """Own rows, padding, the rows above, padding; the buffer is the next layer's, too."""
        heads, n, size = own.shape
        dtype = own.dtype if own.dtype in TYPES or not self.kernel.compiled else torch.float32
        key = (name, own.device, dtype, heads, size)
        buffer = self._buffers.get(key)
        if buffer is None:
            shape = (1, heads, length, padded_head_size(size, dtype))
            buffer = self._buffers[key] = torch.zeros(shape, dtype=dtype, device=own.device)
        buffer[0, :, :n, :size] = own
        begin = self.n_rows
        for tensor, n_keys in zip(above, sizes, strict=True):
            buffer[0, :, begin : begin + n_keys, :size] = tensor[:, :n_keys]
            begin += n_keys
        return buffer

    def _mask(self, device: torch.device) -> BlockMask:
        """The block mask, on the device of a layer."""
        if device not in self._masks:
            seen = visible_rows(self.pack, self.n_rows, self.n_keys - self.n_rows)
            blocks = blocks_of(seen, self.n_rows, BLOCK)
            first, last = to_device(seen.first, device), to_device(seen.last, device)

            def sees(batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
                return (first[key] <= row) & (row < last[key])

            self._masks[device] = BlockMask.from_kv_blocks(
                to_device(blocks.n_partial[None, None], device),
                to_device(blocks.partial[None, None], device),
                to_device(blocks.n_full[None, None], device),
                to_device(blocks.full[None, None], device),
                BLOCK,
                sees,
                seq_lengths=(self.n_rows, self.n_keys),
                compute_q_blocks=False,
            )
        return self._masks[device]


def padded_head_size(size: int, dtype: torch.dtype) -> int:
    """Numbers of a head in the padded tensors."""
    if dtype == torch.float32:
        return _doubled(LEAST_HEAD_SIZE, size)
    return max(size, LEAST_HEAD_SIZE)


def _doubled(size: int, least: int) -> int:
    while size < least:
        size *= 2
    return size
