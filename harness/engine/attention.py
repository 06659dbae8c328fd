"""Attention over a prefix tree, plugged into transformers' attention interface.

Each token attends to itself, to earlier tokens of its own path and to its ancestors. A path
attends to itself causally, and to each ancestor run densely; the partial results are merged
by their log-sum-exp, which is exact.

A float32 model on a CPU attends in float64. Where the tree is cut depends on which prompts
are scored together, and float32 partial sums would carry that into the results.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from harness.engine.keeping import kept_for_later, tokens_of
from harness.engine.packing import Pack
from harness.engine.transfer import to_device
from harness.errors import SharingError

NAME = "harness_prefix_tree"
Tensor = torch.Tensor


Kept = dict[int, dict[int, tuple[Tensor, Tensor]]]


@dataclass
class PackState:
    """What the attention of one forward pass needs beyond queries, keys and values.

    Attributes:
        pack: the layout.
        kept: per layer, path to its keys and values `(kv_heads, n_tokens, head_size)` from
            earlier packs.
        keep: the same for later packs, filled as the layers run.
    """

    pack: Pack
    kept: Kept
    device: torch.device
    keep: Kept = field(default_factory=dict)
    buckets: list[tuple[Tensor, Tensor, Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        self.buckets = [
            (
                to_device(bucket.rows, self.device),
                to_device(bucket.valid, self.device),
                to_device(bucket.targets, self.device),
            )
            for bucket in self.pack.buckets
        ]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `State.attend`."""
        return _attend(self, layer, query, key, value, scale)


class State(Protocol):
    """How the tokens of one forward pass attend."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of all tokens of the pass.

        Args:
            layer: number of the layer.
            query: `(heads, n_tokens, head_size)`.
            key, value: `(kv_heads, n_tokens, head_size)`.
            scale: factor of the dot products.

        Returns:
            Output `(heads, n_tokens, head_size)` in the query's dtype.
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
    return reference_attention(query, key, value, scale, causal)


def reference_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """`partial_attention` in plain operations with equal head counts, for any device."""
    scores = torch.matmul(query, key.transpose(-1, -2))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
    if causal:
        size = scores.shape[-1]
        hidden = torch.ones(size, size, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    lse = scores.logsumexp(-1)
    output = torch.matmul((scores - lse[..., None]).exp().to(value.dtype), value)
    return output, lse


def merge(output: Tensor, lse: Tensor, part: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Two partial attentions of the same queries as one.

    Args:
        output, part: `(heads, n_queries, head_size)`.
        lse, sums: their log-sum-exps `(heads, n_queries)`, nats.
    """
    weight = torch.sigmoid(sums - lse).unsqueeze(-1)
    merged = torch.lerp(output.to(lse.dtype), part.to(lse.dtype), weight)
    return merged.to(output.dtype), torch.logaddexp(lse, sums)


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
    for option in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(option) is not None:
            raise SharingError(f"the model's attention needs '{option}'")
    if attention_mask is not None or query.shape[0] != 1:
        raise SharingError("the model's attention brings a mask or a batch of its own")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer = int(getattr(module, "layer_idx", -1))
    if layer < 0:
        raise SharingError("the model's attention layers are not numbered")
    precise = query.device.type == "cpu" and query.dtype == torch.float32
    rows, keys, values = (x[0].double() if precise else x[0] for x in (query, key, value))
    output = state.attend(layer, rows, keys, values, scale).to(query.dtype)
    return output.transpose(0, 1).unsqueeze(0), None


def _attend(state: PackState, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    pack = state.pack
    heads, n_tokens, _ = query.shape
    output = torch.empty((heads, n_tokens, value.shape[-1]), dtype=query.dtype, device=query.device)
    exact = torch.promote_types(query.dtype, torch.float32)
    lse = torch.empty((heads, n_tokens), dtype=exact, device=query.device)
    for first, last in pack.long_paths:
        rows = slice(first, last)
        part, sums = partial_attention(query[None, :, rows], key[None, :, rows], value[None, :, rows], scale, True)
        output[:, rows], lse[:, rows] = part[0], sums[0]
    for places, valid, targets in state.buckets:
        n_paths, length = places.shape
        flat = places.reshape(-1)

        def gather(x: Tensor, flat: Tensor = flat, n: int = n_paths, length: int = length) -> Tensor:
            return x.index_select(1, flat).view(x.shape[0], n, length, -1).transpose(0, 1)

        part, sums = partial_attention(gather(query), gather(key), gather(value), scale, True)
        part = part.transpose(0, 1).reshape(heads, n_paths * length, -1)
        sums = sums.transpose(0, 1).reshape(heads, n_paths * length)
        output.index_copy_(1, targets, part.index_select(1, valid))
        lse.index_copy_(1, targets, sums.index_select(1, valid))

    kept = state.kept.get(layer, {})
    for edge in pack.ancestors:
        rows = slice(edge.first, edge.last)
        keys, values = tokens_of(pack, kept, edge.path, edge.n_keys, key, value)
        part, sums = partial_attention(query[None, :, rows], keys[None], values[None], scale, False)
        output[:, rows], lse[:, rows] = merge(output[:, rows], lse[:, rows], part[0], sums[0])
    state.keep[layer] = kept_for_later(pack, kept, key, value)
    return output


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, _no_mask)
