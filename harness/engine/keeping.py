"""Keys and values that one pack leaves for the next."""

from __future__ import annotations

import torch

from harness.engine.packing import Pack

Tensor = torch.Tensor
Layer = dict[int, tuple[Tensor, Tensor]]
"""Path to its keys and values `(kv_heads, n_tokens, head_size)`."""


def tokens_of(pack: Pack, kept: Layer, path: int, n_keys: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of a path's first tokens, from an earlier pack or from this one.

    Args:
        pack: this one.
        kept: of earlier packs.
        path: of this or an earlier pack.
        n_keys: how many tokens.
        key, value: of this pack's tokens, `(kv_heads, n_tokens, head_size)`.
    """
    if path < pack.first_path:
        keys, values = kept[path]
        return keys[:, :n_keys], values[:, :n_keys]
    first = pack.offsets[path - pack.first_path]
    return key[:, first : first + n_keys], value[:, first : first + n_keys]


def kept_for_later(pack: Pack, kept: Layer, key: Tensor, value: Tensor) -> Layer:
    """Copies of what later packs need: views would hold the whole pack in memory.

    The trunks of a fixed tree stay as they were kept.
    """
    later = {}
    for path, n_keys in pack.keep:
        if pack.fixed and path < pack.first_path:
            later[path] = kept[path]
        else:
            keys, values = tokens_of(pack, kept, path, n_keys, key, value)
            later[path] = keys.clone(), values.clone()
    return later
