"""Cuts a prefix tree into packs: one forward pass each, without padding.

Knows numpy only. A pack is a run of paths in layout order. What later packs still need of
its keys and values is the chain of ancestors of the next path, since the layout is depth first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np

from harness.engine.local.tree.tree import Ints, Tree

ALONE_FROM = 128
"""Paths of at least this many tokens get an attention call of their own."""
LEAST_ROWS = 16
"""Matrix products of few rows (below 4 with AVX2) take another routine, whose sums differ in the last bit."""
ROW_STEP = 32
"""Products on a CPU have so many rows or a multiple: code is compiled for each number of rows and shape of weights."""
LEAST_RUN = 2
"""So many paths of one length in a row are attended to where they lie, without gathering them."""


@dataclass(frozen=True, slots=True)
class Ancestors:
    """Rows `[first, last)` attend to the first `n_keys` tokens of a path above them, from position `start` on."""

    path: int
    n_keys: int
    first: int
    last: int
    start: int


@dataclass(frozen=True, slots=True)
class Run:
    """Paths of one length in a row, each attended to itself, in one call.

    Path i of the run has the rows from `first + i * length` on.
    """

    first: int
    n_paths: int
    length: int

    @property
    def rows(self) -> slice:
        """All of them."""
        return slice(self.first, self.first + self.n_paths * self.length)


@dataclass(frozen=True, slots=True)
class Pack:
    """One forward pass.

    Attributes:
        tokens: `(n_tokens,)` token ids.
        positions: `(n_tokens,)` position of each token in its own prompt.
        first_path: the first path of the pack; `offsets[i]` is the first row of path
            `first_path + i`, and the last entry is the number of rows.
        runs: paths that are attended to themselves where they lie.
        buckets: the other paths by length, `(n_paths, length)` row of each token; each bucket is
            gathered for one call. Nothing is padded: a path's own attention is the same in every pack.
        ancestors: attention to tokens above, in this pack or kept from earlier ones.
        keep: path and number of its tokens whose keys and values later packs need.
    """

    tokens: Ints
    positions: Ints
    first_path: int
    offsets: list[int]
    runs: list[Run]
    buckets: list[Ints]
    ancestors: list[Ancestors]
    keep: list[tuple[int, int]]
    fixed: bool
    """As of the tree: the cuts of a prompt do not depend on the others."""

    @property
    def last_path(self) -> int:
        """Index after the pack's last path."""
        return self.first_path + len(self.offsets) - 1


def whole_steps(n_rows: int) -> int:
    """Rows of a product, with those that fill up its last step of `ROW_STEP`; one step at least."""
    return max(ROW_STEP, -(-n_rows // ROW_STEP) * ROW_STEP)


def make_packs(
    tree: Tree,
    sequences: Sequence[Sequence[int]],
    tokens_per_pack: int,
    first_path: int = 0,
    whole_trunk: bool = False,
) -> Iterator[Pack]:
    """The packs of a tree, in the order in which they must be computed.

    Args:
        tree: of `sequences`.
        tokens_per_pack: a pack's most tokens; a longer path makes a pack by itself, and less than
            `LEAST_ROWS` tokens at the end of a fixed tree go with those before them.
        first_path: where to begin, to go on with smaller packs after running out of memory.
        whole_trunk: keep all of the first path after it is computed.
    """
    begin = first_path
    left = sum(path.end - path.start for path in tree.paths[first_path:])
    while begin < len(tree.paths):
        end, n_tokens = begin, 0
        while end < len(tree.paths):
            length = tree.paths[end].end - tree.paths[end].start
            if end > begin and n_tokens + length > tokens_per_pack and (left >= LEAST_ROWS or not tree.fixed):
                break
            n_tokens += length
            left -= length
            end += 1
        yield _pack(tree, sequences, begin, end, whole_trunk)
        begin = end


def _pack(tree: Tree, sequences: Sequence[Sequence[int]], begin: int, end: int, whole_trunk: bool) -> Pack:
    paths = tree.paths[begin:end]
    lengths = [path.end - path.start for path in paths]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    parts = (sequences[path.sequence][path.start : path.end] for path in paths)
    tokens = np.fromiter(chain.from_iterable(parts), dtype=np.int64, count=offsets[-1])
    starts = np.asarray([path.start for path in paths], dtype=np.int64)
    positions = np.arange(offsets[-1], dtype=np.int64) + np.repeat(starts - np.asarray(offsets[:-1]), lengths)
    runs, others = _runs(lengths, offsets)
    keep = _chain(tree, end)
    if whole_trunk and begin == 0:
        keep = [(0, lengths[0]), *(item for item in keep if item[0] != 0)]
    return Pack(
        tokens,
        positions,
        begin,
        offsets,
        runs,
        _buckets(others, lengths, offsets),
        _ancestors(tree, begin, end, offsets),
        keep,
        tree.fixed,
    )


def _runs(lengths: list[int], offsets: list[int]) -> tuple[list[Run], list[int]]:
    """Paths that are attended to where they lie, and the indices of the others."""
    runs: list[Run] = []
    others: list[int] = []
    begin = 0
    for length, group in groupby(lengths):
        end = begin + sum(1 for _ in group)
        if length >= ALONE_FROM or end - begin >= LEAST_RUN:
            runs.append(Run(offsets[begin], end - begin, length))
        else:
            others += range(begin, end)
        begin = end
    return runs, others


def _buckets(indices: list[int], lengths: list[int], offsets: list[int]) -> list[Ints]:
    by_length: dict[int, list[int]] = {}
    for index in indices:
        by_length.setdefault(lengths[index], []).append(offsets[index])
    return [np.asarray(firsts)[:, None] + np.arange(length) for length, firsts in sorted(by_length.items())]


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
    starts = {path: tree.paths[path].start for path, _ in ranges}
    return [
        Ancestors(path, depth - starts[path], first, last, starts[path])
        for (path, depth), (first, last) in ranges.items()
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
