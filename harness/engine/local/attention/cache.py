"""Keys and values that one pack leaves for the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from harness.engine.local.tree.packing import Pack
from harness.engine.local.tree.tree import Ints, Tree

Tensor = torch.Tensor
Layer = Mapping[int, tuple[Tensor, Tensor]]
"""Path to its keys and values `(kv_heads, n_tokens, head_size)`."""
Kept = Mapping[int, Layer]
"""Number of the layer to what it keeps."""


class WholeLayer(Layer):
    """Keys and values of one layer for all tokens of a tree, in layout order.

    Args:
        starts: `(n_paths + 1,)` the first token of every path, and their number.
    """

    def __init__(self, starts: Ints) -> None:
        self.starts = starts
        self._stored: list[Tensor] = []

    def add(self, pack: Pack, key: Tensor, value: Tensor) -> None:
        """Take over a pack's keys and values, `(kv_heads, n_tokens, head_size)`."""
        if not self._stored:
            self._stored = [x.new_empty(x.shape[0], int(self.starts[-1]), x.shape[2]) for x in (key, value)]
        begin = int(self.starts[pack.first_path])
        for whole, part in zip(self._stored, (key, value), strict=True):
            whole[:, begin : begin + len(pack.tokens)] = part

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens, `(kv_heads, n_tokens, head_size)`."""
        keys, values = self._stored
        return keys, values

    def __getitem__(self, path: int) -> tuple[Tensor, Tensor]:
        rows = slice(int(self.starts[path]), int(self.starts[path + 1]))
        keys, values = self.tensors()
        return keys[:, rows], values[:, rows]

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.starts) - 1))

    def __len__(self) -> int:
        return len(self.starts) - 1


class WholeTree(dict[int, WholeLayer]):
    """Keys and values of all tokens of a tree, for decoding; a layer is there as soon as it is asked for.

    Args:
        tree: the tree.
    """

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        lengths = [path.end - path.start for path in tree.paths]
        self.starts: Ints = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def __missing__(self, layer: int) -> WholeLayer:
        self[layer] = found = WholeLayer(self.starts)
        return found


def layer_of(kept: Kept, layer: int) -> Layer:
    """What a layer keeps; nothing yet where it is not known."""
    return kept[layer] if layer in kept or isinstance(kept, WholeTree) else {}


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
    if isinstance(kept, WholeLayer):
        kept.add(pack, key, value)
        return kept
    later = {}
    for path, n_keys in pack.keep:
        if pack.fixed and path < pack.first_path:
            later[path] = kept[path]
        else:
            keys, values = tokens_of(pack, kept, path, n_keys, key, value)
            later[path] = keys.clone(), values.clone()
    return later
