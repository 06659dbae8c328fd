"""Which rows of a pack see which keys, as one range per key.

Paths are laid out depth first, and what hangs off a path comes deepest place first. So the rows
that may see a key are one contiguous range: from the key's own row to the end of the last path
that hangs off at a greater depth. Two numbers per key say all that a mask over the tree says.

Knows numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.engine.local.tree.packing import Pack

Int32s = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Visibility:
    """Rows `[first[j], last[j])` of the pack see key `j`; both `(n_keys,)`."""

    first: Int32s
    last: Int32s


@dataclass(frozen=True)
class Blocks:
    """Which blocks of keys a block of rows looks at, as block masks want it.

    Attributes:
        n_partial, n_full: `(row_blocks,)` how many key blocks are seen in part, and by every row.
        partial, full: `(row_blocks, key_blocks)` their indices first, in order.
    """

    n_partial: Int32s
    partial: Int32s
    n_full: Int32s
    full: Int32s


def kept_above(pack: Pack) -> list[tuple[int, int]]:
    """Paths of earlier packs that this pack attends to, and how many of their first tokens."""
    needed: dict[int, int] = {}
    for edge in pack.ancestors:
        if edge.path < pack.first_path:
            needed[edge.path] = max(needed.get(edge.path, 0), edge.n_keys)
    return sorted(needed.items())


def visible_rows(pack: Pack, n_rows: int, n_kept: int) -> Visibility:
    """The visibility of a pack's own keys and of those kept from earlier packs.

    Args:
        pack: the layout.
        n_rows: own keys with padding; keys of padding are seen by no row.
        n_kept: kept keys with padding, in the order of `kept_above`.
    """
    size = len(pack.tokens)
    first = np.zeros(n_rows + n_kept, dtype=np.int32)
    last = np.zeros(n_rows + n_kept, dtype=np.int32)
    first[:size] = np.arange(size)
    last[:size] = np.repeat(pack.offsets[1:], np.diff(pack.offsets))
    begins, begin = {}, n_rows
    for path, n_keys in kept_above(pack):
        begins[path] = begin
        begin += n_keys
    for edge in pack.ancestors:
        start = begins[edge.path] if edge.path < pack.first_path else pack.offsets[edge.path - pack.first_path]
        keys = last[start : start + edge.n_keys]
        np.maximum(keys, edge.last, out=keys)
    first[last == 0] = n_rows
    return Visibility(first, last)


def blocks_of(seen: Visibility, n_rows: int, size: int) -> Blocks:
    """Blocks of `size` rows by `size` keys that hold something to see.

    Args:
        seen: of a multiple of `size` keys.
        n_rows: a multiple of `size`.
        size: of a block.
    """
    first, last = seen.first.reshape(-1, size), seen.last.reshape(-1, size)
    begins = np.arange(0, n_rows, size)[:, None]
    touched = (first.min(1) < begins + size) & (last.max(1) > begins)
    full = (first.max(1) <= begins) & (last.min(1) >= begins + size)
    partial = touched & ~full
    return Blocks(_count(partial), _listed(partial), _count(full), _listed(full))


def _count(chosen: Bools) -> Int32s:
    counts: Int32s = chosen.sum(1).astype(np.int32)
    return counts


def _listed(chosen: Bools) -> Int32s:
    return np.argsort(~chosen, axis=1, kind="stable").astype(np.int32)
