"""What a layer's attention does beyond scaled dot products: a sliding window, a soft cap, sinks.

A window hides keys that lie too far back in a prompt, whatever path of the tree they lie on: positions tell. A cap
bends every score by itself. A sink is one more score per head that takes probability and gives no value; it joins once,
when all parts of a row are merged. All of it is exact over a prefix tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.core.errors import SharingError
from harness.engine.local import memory
from harness.engine.local.attention.cache import Layer, kept_for_later, layer_of, tokens_of
from harness.engine.local.transfer import to_device
from harness.engine.local.transformers_internals import text_config
from harness.engine.local.tree.packing import Pack
from harness.engine.local.tree.tree import Ints

Tensor = torch.Tensor


@dataclass(frozen=True)
class Rules:
    """Of one layer.

    Attributes:
        window: a token sees so many tokens, itself included; None sees all before it.
        softcap: scores lie within plus and minus this; None for no cap.
        sinks: `(heads,)` scores that take part in the softmax alone; None for none.
    """

    window: int | None
    softcap: float | None
    sinks: Tensor | None


def attend_by_options(
    state: Any, pack: Pack | None, layer: int, vectors: tuple[Tensor, Tensor, Tensor], scale: float,
    options: Mapping[str, Any],
) -> Tensor:  # fmt: skip
    """Attention of a pass, by what the model hands to transformers' attention interface.

    Args:
        state: see `harness.engine.local.attention.tree_attention.State`.
        pack: of a state that can do more than dot products; None of another, whose windows hide nothing.
        layer: number of the layer.
        vectors: queries, keys and values.
        scale: factor of the dot products.
        options: of the model.

    Raises:
        SharingError: the model asks for what this state cannot do.
    """
    if options.get("position_bias") is not None:
        raise SharingError("the model's attention needs 'position_bias'")
    window, softcap, sinks = (options.get(name) for name in ("sliding_window", "softcap", "s_aux"))
    if window is not None and (pack is None or window > int(pack.positions.max())):
        window = None
    only_mixes = getattr(state, "only_mixes", False)
    if only_mixes or (window is None and softcap is None and sinks is None):
        plain: Tensor = state.attend(layer, *vectors, scale)
        return plain
    if pack is None:
        raise SharingError("the model's attention needs a soft cap or sinks, which this kernel has not")
    return _attend_pack(state, layer, *vectors, scale, Rules(window, softcap, sinks))


def has_rules(model: Any, longest: int) -> bool:
    """Whether sequences of up to so many tokens are attended to by more than dot products.

    Args:
        model: a transformers model.
        longest: tokens.
    """
    config = text_config(model.config)
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return hides(config, longest) or capped or any(hasattr(module, "sinks") for module in model.modules())


def hides(config: Any, longest: int) -> bool:
    """Whether a window is shorter than sequences of so many tokens."""
    window = getattr(config, "sliding_window", None)
    return window is not None and window < longest and bool(getattr(config, "use_sliding_window", True))


@contextmanager
def narrow_windows(model: Any, most: int) -> Iterator[None]:
    """Windows of at most so many tokens in a block, so that a short text shows what they do."""
    holders = [text_config(model.config), *model.modules()]
    wide = [(one, one.sliding_window) for one in holders if (getattr(one, "sliding_window", None) or 0) > most]
    for one, _ in wide:
        one.sliding_window = most
    try:
        yield
    finally:
        for one, window in wide:
            one.sliding_window = window


def _attend_pack(
    state: Any, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, rules: Rules
) -> Tensor:
    """`harness.engine.local.attention.tree_attention.PackState.attend` by rules."""
    kept, n_tokens = layer_of(state.kept, layer), len(state.pack.tokens)
    output = query.new_zeros(query.shape[0], query.shape[1], value.shape[-1])
    query, key, value = (x[:, :n_tokens] for x in (query, key, value))
    output[:, :n_tokens] = attend_by_rules(state.pack, kept, query, key, value, scale, rules)
    state.keep[layer] = kept_for_later(state.pack, kept, key, value)
    return output


def attend_by_rules(
    pack: Pack, kept: Layer, query: Tensor, key: Tensor, value: Tensor, scale: float, rules: Rules
) -> Tensor:
    """Attention of a pack's tokens.

    Args:
        pack: the layout.
        kept: keys and values of earlier packs.
        query: `(heads, n_tokens, head_size)`.
        key, value: `(kv_heads, n_tokens, head_size)`.
        scale: factor of the dot products.
        rules: of the layer.

    Returns:
        Output `(heads, n_tokens, head_size)` in the query's dtype.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    output = query.new_zeros(query.shape[0], query.shape[1], value.shape[-1], dtype=exact)
    lse = output.new_full(output.shape[:2], float("-inf"))
    for rows in _paths_by_length(pack):
        index = to_device(rows.reshape(-1), query.device)
        length = rows.shape[1]
        q, k, v = (x[:, index].unflatten(1, rows.shape).transpose(0, 1) for x in (query, key, value))
        back = np.arange(length)[:, None] - np.arange(length)[None, :]
        part, sums = _partial(q, k, v, scale, rules, back)
        output[:, index] = part.transpose(0, 1).flatten(1, 2)
        lse[:, index] = sums.transpose(0, 1).flatten(1, 2)
    for edge in pack.ancestors:
        positions = pack.positions[edge.first : edge.last]
        hidden = 0 if rules.window is None else max(0, int(positions.min()) - rules.window + 1 - edge.start)
        if hidden >= edge.n_keys:
            continue
        keys, values = (x[:, hidden:] for x in tokens_of(pack, kept, edge.path, edge.n_keys, key, value))
        back = positions[:, None] - (edge.start + np.arange(hidden, edge.n_keys))[None, :]
        part, sums = _partial(query[None, :, edge.first : edge.last], keys[None], values[None], scale, rules, back)
        _merge(output[:, edge.first : edge.last], lse[:, edge.first : edge.last], part[0], sums[0])
    if rules.sinks is not None:
        whole = torch.logaddexp(lse, rules.sinks.to(lse)[:, None])
        output *= (lse - whole).exp()[..., None]
    return output.to(query.dtype)


def _paths_by_length(pack: Pack) -> list[Ints]:
    """Rows `(n_paths, length)` of the paths of each length."""
    offsets = np.asarray(pack.offsets)
    lengths = np.diff(offsets)
    return [offsets[:-1][lengths == length][:, None] + np.arange(length) for length in np.unique(lengths)]


def _partial(
    query: Tensor, key: Tensor, value: Tensor, scale: float, rules: Rules, back: Ints
) -> tuple[Tensor, Tensor]:
    """Attention by rules, in portions of rows.

    Args:
        query: `(batch, heads, n_queries, head_size)`.
        key, value: `(batch, kv_heads, n_keys, head_size)`.
        scale: factor of the dot products.
        rules: of the layer.
        back: `(n_queries, n_keys)` how far each key lies back; below 0 it lies ahead.

    Returns:
        Output and log-sum-exp in at least float32; of a row that sees nothing 0 and minus infinity.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (key, value))
    seen = (back >= 0) & (back < (rules.window if rules.window is not None else np.inf))
    size = max(1, memory.SCORES_AT_ONCE // (query.shape[0] * query.shape[1] * key.shape[2]))
    parts = []
    for begin in range(0, query.shape[2], size):
        scores = torch.matmul(query[:, :, begin : begin + size], key.transpose(-1, -2))
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
        if rules.softcap is not None:
            scores = torch.tanh(scores / rules.softcap) * rules.softcap
        scores = scores.masked_fill(~torch.from_numpy(seen[begin : begin + size]).to(scores.device), float("-inf"))
        lse = scores.logsumexp(-1)
        weights = (scores - lse[..., None]).exp().nan_to_num(0.0)
        parts.append((torch.matmul(weights.to(value.dtype), value).to(lse.dtype), lse))
    outputs, sums = zip(*parts, strict=True)
    return torch.cat(outputs, 2), torch.cat(sums, 2)


def _merge(output: Tensor, lse: Tensor, part: Tensor, sums: Tensor) -> None:
    """Add more keys of the same rows to their output and log-sum-exp."""
    both = torch.logaddexp(lse, sums)
    output *= (lse - both).exp()[..., None]
    output += part * (sums - both).exp()[..., None]
    lse.copy_(both)
