"""Attention over a prefix tree, plugged into transformers' attention interface.

Each token attends to itself, to earlier tokens of its own path and to its ancestors. A path
attends to itself causally, and to each ancestor run densely; the partial results are merged
by their log-sum-exp, which is exact.

Where a tree's cuts depend on which prompts are computed together, a float32 model on a CPU
attends in float64: float32 partial sums would carry the cuts into the results.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from transformers import AttentionInterface

from harness.core.errors import SharingError
from harness.engine.local import memory
from harness.engine.local.attention.cache import Kept, Layer, kept_for_later, layer_of, tokens_of
from harness.engine.local.attention.rules import attend_by_options
from harness.engine.local.transfer import OnDevices, to_device
from harness.engine.local.tree.packing import LEAST_ROWS, Pack
from harness.engine.local.tree.tree import Ints

NAME = "harness_prefix_tree"
BLOCK_ROWS = 32
Tensor = torch.Tensor


@dataclass(frozen=True)
class Needed:
    """The rows of one layer's attention whose results matter; the others may come out as zeros.

    Attributes:
        layer: number of the layer.
        rows: in order, each once.
    """

    layer: int
    rows: Ints


@dataclass
class PackState:
    """What the attention of one forward pass needs beyond queries, keys and values.

    Attributes:
        pack: the layout.
        kept: of earlier packs.
        needed: rows of one layer that alone are computed there.
        keep: the same as `kept` for later packs, filled as the layers run.
    """

    pack: Pack
    kept: Kept
    needed: Needed | None = None
    exact: bool = field(init=False)
    keep: dict[int, Layer] = field(default_factory=dict)
    gathered: OnDevices | None = field(init=False)
    """Rows of the paths that are gathered, bucket after bucket."""

    def __post_init__(self) -> None:
        self.exact = not self.pack.fixed
        rows = [bucket.reshape(-1) for bucket in self.pack.buckets]
        self.gathered = OnDevices(np.concatenate(rows)) if rows else None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `State.attend`."""
        kept = layer_of(self.kept, layer)
        n_rows, n_tokens = query.shape[1], len(self.pack.tokens)
        some = self.needed is not None and self.needed.layer == layer
        # Laid out as the model wants it back: no copy follows.
        output = query.new_empty(n_rows, query.shape[0], value.shape[-1]).transpose(0, 1)
        output[:, 0 if some else n_tokens :] = 0
        query, key, value = (x[:, :n_tokens] for x in (query, key, value))
        if some:
            _attend_some(self, kept, query, key, value, scale, output)
        else:
            _attend(self, kept, query, key, value, scale, output[:, :n_tokens])
        self.keep[layer] = kept_for_later(self.pack, kept, key, value)
        return output


class State(Protocol):
    """How the tokens of one forward pass attend."""

    exact: bool
    """Whether sums must not show the order of adding: a float32 model on a CPU attends in float64."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of all tokens of the pass.

        Args:
            layer: number of the layer.
            query: `(heads, n_tokens, head_size)`; on a CPU rows that no token has may follow.
            key, value: `(kv_heads, n_tokens, head_size)`, likewise.
            scale: factor of the dot products.

        Returns:
            Output `(heads, rows of the query, size of the value's heads)` in the query's dtype.
        """
        ...


_state: ContextVar[State | None] = ContextVar("harness_attention_state", default=None)


@contextmanager
def attending(state: State) -> Iterator[None]:
    """Attend by a state in the forward passes of a block."""
    token = _state.set(state)
    try:
        yield
    finally:
        _state.reset(token)


def partial_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp, so that partial results can be merged.

    Args:
        query: `(batch, heads, n_queries, head_size)`.
        key, value: `(batch, kv_heads, n_keys, head_size)`; kv_heads divides heads.
        scale: factor of the dot products.
        causal: query i sees keys up to i; else every query sees all keys.

    Returns:
        Output `(batch, heads, n_queries, head_size)` in the query's dtype, and the
        log-sum-exp `(batch, heads, n_queries)` in at least float32, nats.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    if query.device.type == "cpu":
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scale
        )
        return output, lse
    return attention_in_portions(query, key, value, scale, causal)


def attention_in_portions(
    query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """`reference_attention` with at most `memory.SCORES_AT_ONCE` scores in memory, but for those of one query."""
    n_queries, n_keys = query.shape[-2], key.shape[-2]
    rows = max(1, memory.SCORES_AT_ONCE // (query.shape[:-2].numel() * n_keys))
    if rows >= n_queries:
        return reference_attention(query, key, value, scale, causal)
    parts = []
    for begin in range(0, n_queries, rows):
        end = min(begin + rows, n_queries)
        seen = end if causal else n_keys
        parts.append(
            reference_attention(query[..., begin:end, :], key[..., :seen, :], value[..., :seen, :], scale, causal)
        )
    outputs, sums = zip(*parts, strict=True)
    return torch.cat(outputs, -2), torch.cat(sums, -1)


def reference_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """`partial_attention` in plain operations with equal head counts, for any device.

    With more keys than queries, the last query is the one that sees all keys.
    """
    scores = torch.matmul(query, key.transpose(-1, -2))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
    if causal:
        n_queries, n_keys = scores.shape[-2:]
        hidden = torch.ones(n_queries, n_keys, dtype=torch.bool, device=scores.device).triu(1 + n_keys - n_queries)
        scores = scores.masked_fill(hidden, float("-inf"))
    lse = scores.logsumexp(-1)
    output = torch.matmul((scores - lse[..., None]).exp().to(value.dtype), value)
    return output, lse


def merge(output: Tensor, lse: Tensor, part: Tensor, sums: Tensor) -> None:
    """Two partial attentions of the same queries as one, written over the first.

    Args:
        output, part: `(heads, n_queries, head_size)`; the part may have fewer bits.
        lse, sums: their log-sum-exps `(heads, n_queries)`, nats.
    """
    # In float64, because the ends of a vectorised float32 sigmoid are rounded otherwise than its middle.
    weight = torch.sigmoid((sums - lse).double()).to(lse.dtype).unsqueeze(-1)
    if output.dtype == lse.dtype:
        output.lerp_(part.to(lse.dtype), weight)
    else:
        output.copy_(torch.lerp(output.to(lse.dtype), part.to(lse.dtype), weight))
    torch.logaddexp(lse, sums, out=lse)


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention signature; `(1, heads, n_tokens, head_size)` in,
    `(1, n_tokens, heads, head_size)` out.

    Raises:
        SharingError: the model asks for something this attention does not do.
    """
    state = _state.get()
    if state is None:
        raise SharingError("tree attention was called outside a pack")
    if attention_mask is not None or query.shape[0] != 1:
        raise SharingError("the model's attention brings a mask or a batch of its own")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer = int(getattr(module, "layer_idx", -1))
    if layer < 0:
        raise SharingError("the model's attention layers are not numbered")
    precise = state.exact and query.device.type == "cpu" and query.dtype == torch.float32
    rows, keys, values = (x[0].double() if precise else x[0] for x in (query, key, value))
    pack = state.pack if isinstance(state, PackState) else None
    output = attend_by_options(state, pack, layer, (rows, keys, values), scale, kwargs).to(query.dtype)
    return output.transpose(0, 1).unsqueeze(0), None


def _attend(
    state: PackState, kept: Layer, query: Tensor, key: Tensor, value: Tensor, scale: float, output: Tensor
) -> None:
    pack = state.pack
    exact = torch.promote_types(query.dtype, torch.float32)
    lse = torch.empty(query.shape[:2], dtype=exact, device=query.device)

    for run in pack.runs:
        shape = (run.n_paths, run.length)
        q, k, v = (x[:, run.rows].transpose(0, 1) for x in (query, key, value))
        part, sums = _own(q, k, v, shape, scale)
        output[:, run.rows].transpose(0, 1).unflatten(0, shape).copy_(part)
        lse[:, run.rows].T.unflatten(0, shape).copy_(sums)
    if state.gathered is not None:
        gathered = state.gathered.on(query.device)
        # Not index_select, which would first copy all of a tensor that is not contiguous.
        vectors = [x.transpose(0, 1)[gathered] for x in (query, key, value)]
        parts, all_sums, begin = [], [], 0
        for bucket in pack.buckets:
            rows = slice(begin, begin + bucket.size)
            q, k, v = (x[rows] for x in vectors)
            part, sums = _own(q, k, v, bucket.shape, scale)
            parts.append(part.flatten(0, 1))
            all_sums.append(sums.flatten(0, 1))
            begin = rows.stop
        output.transpose(0, 1).index_copy_(0, gathered, torch.cat(parts))
        lse.index_copy_(1, gathered, torch.cat(all_sums).T)

    for edge in pack.ancestors:
        keys, values = tokens_of(pack, kept, edge.path, edge.n_keys, key, value)
        _add_ancestors(query, keys, values, edge.first, edge.last, scale, output, lse)


def _attend_some(
    state: PackState, kept: Layer, query: Tensor, key: Tensor, value: Tensor, scale: float, whole: Tensor
) -> None:
    """`_attend` for the rows that are needed; the others are left as they are."""
    assert state.needed is not None
    pack, rows = state.pack, state.needed.rows
    if not len(rows):
        return
    places = to_device(rows, query.device)
    asked = query[:, places]
    offsets = np.asarray(pack.offsets)
    begins = offsets[np.searchsorted(offsets, rows, side="right") - 1]
    output = query.new_empty(query.shape[0], len(rows), value.shape[-1])
    lse = query.new_empty(query.shape[0], len(rows), dtype=torch.promote_types(query.dtype, torch.float32))
    lengths = rows + 1 - begins
    for length in np.unique(lengths):
        group = np.flatnonzero(lengths == length)
        at = _as_slice(group, 1) or to_device(group, query.device)
        lie = _as_slice(begins[group], length)
        if lie is not None:
            k, v = (x[:, lie].unflatten(1, (-1, length)).transpose(0, 1) for x in (key, value))
        else:
            index = to_device(begins[group][:, None] + np.arange(length), query.device)
            k, v = (x.transpose(0, 1)[index].transpose(1, 2) for x in (key, value))
        part, sums = partial_attention(asked[:, at].transpose(0, 1)[:, :, None], k, v, scale, False)
        output[:, at], lse[:, at] = part[:, :, 0].transpose(0, 1), sums[:, :, 0].T
    for edge in pack.ancestors:
        first, last = np.searchsorted(rows, [edge.first, edge.last]).tolist()
        if first < last:
            keys, values = tokens_of(pack, kept, edge.path, edge.n_keys, key, value)
            _add_ancestors(asked, keys, values, first, last, scale, output, lse)
    whole[:, places] = output


def _as_slice(begins: Ints, length: int) -> slice | None:
    """All places of ranges of one length, where each begins at the end of the one before it."""
    if (np.diff(begins) == length).all():
        return slice(int(begins[0]), int(begins[-1]) + int(length))
    return None


def _add_ancestors(
    query: Tensor, keys: Tensor, values: Tensor, first: int, last: int, scale: float, output: Tensor, lse: Tensor
) -> None:
    """Merge the attention of rows `[first, last)` to tokens above them into their output and log-sum-exp."""
    for rows in _portions(first, last):
        n_rows = rows.stop - rows.start
        asked = query[:, rows]
        if n_rows < LEAST_ROWS:
            asked = torch.cat([asked, asked[:, :1].expand(-1, LEAST_ROWS - n_rows, -1)], 1)
        part, sums = partial_attention(asked[None], keys[None], values[None], scale, False)
        merge(output[:, rows], lse[:, rows], part[0, :, :n_rows], sums[0, :, :n_rows])


def _own(query: Tensor, key: Tensor, value: Tensor, shape: tuple[int, ...], scale: float) -> tuple[Tensor, Tensor]:
    """Attention of paths of one length to themselves.

    Args:
        query: `(n_tokens, heads, head_size)`, path after path.
        key, value: `(n_tokens, kv_heads, head_size)`.
        shape: number of paths and their length.
        scale: factor of the dot products.

    Returns:
        Output `(n_paths, length, heads, head_size)` and log-sum-exp `(n_paths, length, heads)`.
    """
    q, k, v = (x.unflatten(0, shape).transpose(1, 2) for x in (query, key, value))
    part, sums = partial_attention(q, k, v, scale, True)
    return part.transpose(1, 2), sums.transpose(1, 2)


def _portions(first: int, last: int) -> list[slice]:
    """Rows in portions of which none ends with a block of fewer than `LEAST_ROWS` rows.

    The kernel takes blocks of a multiple of `BLOCK_ROWS` rows.
    """
    if last - first < BLOCK_ROWS or (last - first) % BLOCK_ROWS not in range(1, LEAST_ROWS):
        return [slice(first, last)]
    middle = last - LEAST_ROWS
    return [slice(first, middle), slice(middle, last)]


# Without a mask function of this name transformers makes no mask. With one it would first look for packed sequences
# among the positions, which makes the host wait for a GPU at every pack.
AttentionInterface.register(NAME, tree_attention)
