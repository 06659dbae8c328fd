"""Prefix tree over token sequences, laid out for packed computation.

The tree is found by comparing ids, so it is right whatever produced them. It is cut into
*paths*: runs of tokens that hang off an earlier path at a depth. Laid out depth first with
the heaviest child first, all that hangs at one place is one contiguous range of rows:

    trunk path   d1 d2 d3 ... dK q1        rows 0..n
    at depth |dK|:  q2 | q3 | q4 ...       attend to rows [0, |dK|) and to themselves
    at depth |d1|:  q1'| q2'| ...          attend to rows [0, |d1|) and to themselves

Knows numpy only.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.core.prefixes import shared_prefix_lengths, sort_key

Ints = npt.NDArray[np.int64]

LEAST_TRUNK = 2
"""Attention to one token alone takes another routine, whose sums differ in the last bit."""
LEAST_SAVED = 4
"""A branch that saves fewer tokens than this costs more than it saves: its tokens are repeated."""


@dataclass(slots=True)
class Path:
    """A run of tokens that are computed together.

    Depths are positions in the prompt, so they are the position ids too.
    """

    sequence: int
    """A sequence that runs along this path."""
    start: int
    end: int
    parent: int
    """The path it hangs off, -1 for none; attached at depth `start`."""
    last: int = 0
    """Index after the last path of its subtree, in layout order."""


@dataclass
class Tree:
    """Paths in layout order, and where each sequence ends."""

    paths: list[Path]
    path_of: list[int]
    """For each sequence, the path that holds its last token."""
    n_tokens: int

    fixed: bool = False
    """Whether the cuts of a sequence depend on that sequence alone; see `build_forked_tree`."""

    def locate(self, sequence: int, depth: int) -> tuple[int, int]:
        """Path and offset in it of a sequence's token at a depth."""
        index = self.path_of[sequence]
        while self.paths[index].start > depth:
            index = self.paths[index].parent
        return index, depth - self.paths[index].start


@dataclass(frozen=True, slots=True)
class Origin:
    """What a prompt may share with others."""

    family: Hashable
    """Prompts that are always computed together: those of one sample."""
    trunk: int
    """Tokens before the prompt's own: demonstrations, and what every query begins with."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a sequence leaves what it shares.

    Sequences of one prompt (its context, and the context with label tokens) agree up to `stem`.
    """

    prompt: int
    origin: Origin
    stem: int
    """Tokens of the prompt; more than its trunk."""


@dataclass(slots=True)
class _Node:
    depth: int
    parent: int
    sequence: int
    children: list[int]
    ends: list[int]
    """Sequences that end in this node."""
    weight: int = 0


def build_tree(sequences: Sequence[Sequence[int]], least_saved: int = LEAST_SAVED) -> Tree:
    """The prefix tree of some token sequences, as paths.

    Args:
        sequences: non-empty token-id sequences; equal ones share everything.
        least_saved: tokens that a branch must save to be kept.
    """
    nodes = _nodes(sequences)
    _drop_weak_branches(nodes, least_saved)
    return _lay_out(nodes, len(sequences))


def build_forked_tree(sequences: Sequence[Sequence[int]], forks: Sequence[Fork]) -> Tree:
    """A tree in which prompts share their trunks and nothing else.

    Equal trunks are one. A trunk that begins the longest of its family is a part of that. A prompt's
    tokens are cut at the end of its trunk and where label tokens follow, whatever other families
    there are: so its attention is summed in the same order in every company, and its results are
    the same bit by bit.

    Args:
        sequences: non-empty token-id sequences.
        forks: of each; the sequences of one prompt follow one another.
    """
    lengths = [fork.origin.trunk if fork.origin.trunk >= LEAST_TRUNK else 0 for fork in forks]
    # Keys are compared and never sorted, so any bytes will do: an array of C ints is the cheapest to make.
    keys = [array("i", sequence[:length]).tobytes() for sequence, length in zip(sequences, lengths, strict=True)]
    longest: dict[Hashable, bytes] = {}
    for key, fork in zip(keys, forks, strict=True):
        longest[fork.origin.family] = max(longest.get(fork.origin.family, b""), key, key=len)
    members: dict[bytes, list[int]] = {}
    for index, (key, fork) in enumerate(zip(keys, forks, strict=True)):
        whole = longest[fork.origin.family]
        members.setdefault(whole if key and whole.startswith(key) else key, []).append(index)
    paths: list[Path] = []
    path_of = [-1] * len(sequences)
    # The widest trunk comes first: it is the one worth remembering for the next tree.
    for trunk, below in sorted(members.items(), key=lambda item: -len(item[1])):
        root = -1
        if trunk:
            root = len(paths)
            owner = next(i for i in below if keys[i] == trunk)
            paths.append(Path(owner, 0, lengths[owner], -1))
        stem, prompt = -1, -1
        for index in sorted(below, key=lambda i: (-lengths[i], forks[i].stem, forks[i].prompt, len(sequences[i]))):
            fork = forks[index]
            if fork.prompt != prompt:
                stem, prompt = len(paths), fork.prompt
                paths.append(Path(index, lengths[index], fork.stem, root, len(paths) + 1))
            if len(sequences[index]) > fork.stem:
                paths.append(Path(index, fork.stem, len(sequences[index]), stem, len(paths) + 1))
                paths[stem].last = len(paths)
            path_of[index] = len(paths) - 1
        if root >= 0:
            paths[root].last = len(paths)
    return Tree(paths, path_of, sum(path.end - path.start for path in paths), fixed=True)


def _nodes(sequences: Sequence[Sequence[int]]) -> list[_Node]:
    """Branching nodes and ends of the tree, parents before children; node 0 is the root."""
    if not sequences:
        return [_Node(0, -1, -1, [], [])]
    keys = [sort_key(s) for s in sequences]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    arrays = [np.frombuffer(keys[i], dtype=">i4") for i in order]
    shared = shared_prefix_lengths(arrays)
    nodes = [_Node(0, -1, order[0], [], [])]
    stack = [0]
    for index, ids, common in zip(order, arrays, shared, strict=True):
        below = -1
        while nodes[stack[-1]].depth > common:
            below = stack.pop()
        if nodes[stack[-1]].depth < common:
            top = stack[-1]
            nodes.append(_Node(common, top, index, [below], []))
            siblings = nodes[top].children
            siblings[siblings.index(below)] = len(nodes) - 1
            nodes[below].parent = len(nodes) - 1
            stack.append(len(nodes) - 1)
        if len(ids) == common:
            nodes[stack[-1]].ends.append(index)
            continue
        nodes.append(_Node(len(ids), stack[-1], index, [], [index]))
        nodes[stack[-1]].children.append(len(nodes) - 1)
        stack.append(len(nodes) - 1)
    return nodes


def _drop_weak_branches(nodes: list[_Node], least_saved: int) -> None:
    """Give the children of branches that save too little to the node above, top down."""
    pending = list(nodes[0].children)
    while pending:
        index = pending.pop()
        node = nodes[index]
        if not node.children:
            continue
        saved = (len(node.children) + bool(node.ends) - 1) * (node.depth - nodes[node.parent].depth)
        if saved < least_saved and not node.ends:
            siblings = nodes[node.parent].children
            siblings.remove(index)
            siblings.extend(node.children)
            for child in node.children:
                nodes[child].parent = node.parent
        pending.extend(node.children)


def _lay_out(nodes: list[_Node], n_sequences: int) -> Tree:
    order = _parents_first(nodes)
    for index in reversed(order):
        node = nodes[index]
        above = nodes[node.parent].depth if node.parent >= 0 else 0
        node.weight += node.depth - above
        if node.parent >= 0:
            nodes[node.parent].weight += node.weight
    paths: list[Path] = []
    path_of = [-1] * n_sequences
    # Each entry: (node that begins a path, parent path); a path follows heavy children to a leaf.
    # What hangs off it comes next, deepest place first, so that every place is contiguous.
    stack = [(child, -1) for child in reversed(nodes[0].children)]
    while stack:
        index, parent = stack.pop()
        if index < 0:
            paths[parent].last = len(paths)
            continue
        here = len(paths)
        start = nodes[nodes[index].parent].depth
        path = Path(nodes[index].sequence, start, start, parent)
        paths.append(path)
        stack.append((-1, here))
        while True:
            node = nodes[index]
            for sequence in node.ends:
                path_of[sequence] = here
            path.sequence, path.end = node.sequence, node.depth
            if not node.children:
                break
            heavy = max(node.children, key=lambda child: nodes[child].weight)
            stack.extend((child, here) for child in node.children if child != heavy)
            index = heavy
    return Tree(paths, path_of, sum(path.end - path.start for path in paths))


def _parents_first(nodes: list[_Node]) -> list[int]:
    order, stack = [], [0]
    while stack:
        index = stack.pop()
        order.append(index)
        stack.extend(nodes[index].children)
    return order
