"""Cuts a prefix tree into packs: one forward pass each, without padding.

Knows numpy only. A pack is a run of paths in layout order. What later packs still need of
its keys and values is the chain of ancestors of the next path, since the layout is depth first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness.engine.tree import Ints, Tree

PAD_TO = 8
"""Short paths of one padded length share a call; padding follows the tokens, so causality hides it."""
ALONE_FROM = 128
"""Paths of at least this many tokens get an attention call of their own."""


@dataclass(frozen=True, slots=True)
class Ancestors:
    """Rows `[first, last)` attend to the first `n_keys` tokens of a path above them."""

    path: int
    n_keys: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """Short paths of similar length, attended to themselves in one call.

    Attributes:
        rows: `(n_paths, padded_length)` row of each token; padding repeats the path's first row.
        valid: `(n_tokens,)` index into the flattened `rows` of the real tokens.
        targets: `(n_tokens,)` row that each real token's output belongs to.
    """

    rows: Ints
    valid: Ints
    targets: Ints


@dataclass(frozen=True, slots=True)
class Pack:
    """One forward pass.

    Attributes:
        tokens: `(n_tokens,)` token ids.
        positions: `(n_tokens,)` position of each token in its own prompt.
        first_path: the first path of the pack; `offsets[i]` is the first row of path
            `first_path + i`, and the last entry is the number of rows.
        long_paths: row ranges of paths that are attended to themselves one by one.
        buckets: the short paths.
        ancestors: attention to tokens above, in this pack or kept from earlier ones.
        keep: path and number of its tokens whose keys and values later packs need.
    """

    tokens: Ints
    positions: Ints
    first_path: int
    offsets: list[int]
    long_paths: list[tuple[int, int]]
    buckets: list[Bucket]
    ancestors: list[Ancestors]
    keep: list[tuple[int, int]]

    @property
    def last_path(self) -> int:
        """Index after the pack's last path."""
        return self.first_path + len(self.offsets) - 1


def make_packs(
    tree: Tree, sequences: Sequence[Sequence[int]], tokens_per_pack: int, first_path: int = 0
) -> Iterator[Pack]:
    """The packs of a tree, in the order in which they must be computed.

    Args:
        tree: of `sequences`.
        tokens_per_pack: a pack's most tokens; a longer path makes a pack by itself.
        first_path: where to begin, to go on with smaller packs after running out of memory.
    """
    begin = first_path
    while begin < len(tree.paths):
        end, n_tokens = begin, 0
        while end < len(tree.paths):
            length = tree.paths[end].end - tree.paths[end].start
            if end > begin and n_tokens + length > tokens_per_pack:
                break
            n_tokens += length
            end += 1
        yield _pack(tree, sequences, begin, end)
        begin = end


def _pack(tree: Tree, sequences: Sequence[Sequence[int]], begin: int, end: int) -> Pack:
    paths = tree.paths[begin:end]
    lengths = [path.end - path.start for path in paths]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    tokens = np.concatenate([np.asarray(sequences[p.sequence][p.start : p.end], dtype=np.int64) for p in paths])
    positions = np.concatenate([np.arange(p.start, p.end, dtype=np.int64) for p in paths])
    long_paths = [(offsets[i], offsets[i + 1]) for i, length in enumerate(lengths) if length >= ALONE_FROM]
    return Pack(
        tokens,
        positions,
        begin,
        offsets,
        long_paths,
        _buckets(lengths, offsets),
        _ancestors(tree, begin, end, offsets),
        _chain(tree, end),
    )


def _buckets(lengths: list[int], offsets: list[int]) -> list[Bucket]:
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        if length < ALONE_FROM:
            by_length.setdefault(-(-length // PAD_TO) * PAD_TO, []).append(index)
    buckets = []
    for padded, members in sorted(by_length.items()):
        firsts = np.asarray([offsets[i] for i in members])[:, None]
        sizes = np.asarray([lengths[i] for i in members])[:, None]
        columns = np.arange(padded)[None, :]
        real = columns < sizes
        rows = np.where(real, firsts + columns, firsts)
        buckets.append(Bucket(rows, np.flatnonzero(real), rows[real]))
    return buckets


def _ancestors(tree: Tree, begin: int, end: int, offsets: list[int]) -> list[Ancestors]:
    ranges: dict[tuple[int, int], list[int]] = {}
    for index in range(begin, end):
        first, last = offsets[index - begin], offsets[index - begin + 1]
        here = index
        while tree.paths[here].parent >= 0:
            place = (tree.paths[here].parent, tree.paths[here].start)
            span = ranges.setdefault(place, [first, last])
            span[0], span[1] = min(span[0], first), max(span[1], last)
            here = place[0]
    return [
        Ancestors(path, depth - tree.paths[path].start, first, last) for (path, depth), (first, last) in ranges.items()
    ]


def _chain(tree: Tree, path: int) -> list[tuple[int, int]]:
    if path >= len(tree.paths):
        return []
    chain = []
    here = tree.paths[path]
    while here.parent >= 0:
        above = tree.paths[here.parent]
        chain.append((here.parent, here.start - above.start))
        here = above
    return chain
