"""Attention of one decoding step: every sequence of a batch adds one token.

What sequences share stays shared: the keys and values of a prefix lie in memory once, and all
sequences below it attend to them in one call. Only the last tokens of each prompt and what was
generated since are laid out per sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import torch

from harness.engine.attention import Kept, merge, partial_attention
from harness.engine.tree import Tree

Tensor = torch.Tensor
MOST_TAIL = 64
"""Most tokens of a prompt that are laid out per sequence; the rest stays where it is."""


@dataclass(frozen=True)
class Run:
    """Rows `[first, last)` attend to the first `n_keys` tokens of a path."""

    path: int
    n_keys: int
    first: int
    last: int


@dataclass(frozen=True)
class Place:
    """Where a sequence's keys and values lie: runs of paths above, then a tail of its own."""

    runs: tuple[tuple[int, int], ...]
    """Path and number of its first tokens, from the last to the root."""
    path: int
    tail: tuple[int, int]
    """Offsets in `path` of the tokens that are laid out per sequence."""


def place(tree: Tree, sequence: int, length: int) -> Place:
    """Where the keys and values of a sequence of a tree lie.

    Args:
        tree: of all sequences.
        sequence: its index.
        length: its number of tokens.
    """
    path, offset = tree.locate(sequence, length - 1)
    own = tree.paths[path]
    shared = max((p.start for p in tree.paths[path + 1 : own.last] if p.parent == path), default=own.start)
    end = offset + 1
    begin = max(0, min(end, shared - own.start), end - MOST_TAIL)
    runs = [(path, begin)] if begin else []
    here = own
    while here.parent >= 0:
        above = tree.paths[here.parent]
        runs.append((here.parent, here.start - above.start))
        here = above
    return Place(tuple(runs), path, (begin, end))


class DecodingState:
    """Keys and values of a batch of sequences that are being continued.

    Args:
        places: of the sequences, in the order of the tree, so that those which share a prefix
            are neighbours.
        kept: per layer, path to its keys and values `(kv_heads, n_tokens, head_size)`.
        room: most tokens that will be generated.
    """

    exact = True

    def __init__(self, places: list[Place], kept: Kept, room: int) -> None:
        self.places = places
        self.kept = kept
        sizes = [p.tail[1] - p.tail[0] for p in places]
        self.width = max(sizes) + room
        first_layer = next(iter(kept.values()))
        device = next(iter(first_layer.values()))[0].device
        self.lengths = torch.tensor(sizes, device=device)
        self.tails = {layer: self._lay_out(paths) for layer, paths in kept.items()}
        self.runs = self._runs()

    def _lay_out(self, paths: dict[int, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        example_key, example_value = next(iter(paths.values()))
        tails = []
        for which, example in enumerate((example_key, example_value)):
            heads, _, size = example.shape
            tail = example.new_zeros(len(self.places), heads, self.width, size)
            for row, here in enumerate(self.places):
                begin, end = here.tail
                tail[row, :, : end - begin] = paths[here.path][which][:, begin:end]
            tails.append(tail)
        return tails[0], tails[1]

    def _runs(self) -> list[Run]:
        found = []
        deepest = max(len(p.runs) for p in self.places)
        for level in range(1, deepest + 1):
            # Counted from the root, sequences of one subtree agree, and they are neighbours.
            keys = [p.runs[-level] if len(p.runs) >= level else None for p in self.places]
            row = 0
            for key, group in groupby(keys):
                size = len(list(group))
                if key is not None:
                    found.append(Run(*key, row, row + size))
                row += size
        return found

    def keep_rows(self, rows: list[int]) -> None:
        """Go on with these sequences only."""
        index = torch.tensor(rows, device=self.lengths.device)
        self.places = [self.places[row] for row in rows]
        self.lengths = self.lengths[index]
        self.tails = {layer: (k[index], v[index]) for layer, (k, v) in self.tails.items()}
        self.runs = self._runs()

    def step_done(self) -> None:
        """Count the token that the last forward pass added to every sequence."""
        self.lengths += 1

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of one new token per sequence; `(heads, n_sequences, head_size)` in and out."""
        keys, values = self.tails[layer]
        rows = torch.arange(len(self.places), device=query.device)
        keys[rows, :, self.lengths] = key.transpose(0, 1).to(keys.dtype)
        values[rows, :, self.lengths] = value.transpose(0, 1).to(values.dtype)
        output, lse = self._own(query, keys, values, scale)
        for run in self.runs:
            above_keys, above_values = self.kept[layer][run.path]
            at = slice(run.first, run.last)
            part, sums = partial_attention(
                query[None, :, at], above_keys[None, :, : run.n_keys], above_values[None, :, : run.n_keys], scale, False
            )
            merge(output[:, at], lse[:, at], part[0], sums[0])
        return output

    def _own(self, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attention to each sequence's own tail, and its log-sum-exp."""
        heads, n, size = query.shape
        kv_heads, used = keys.shape[1], int(self.lengths.max()) + 1
        grouped = query.view(kv_heads, heads // kv_heads, n, size).permute(2, 0, 1, 3)
        exact = torch.promote_types(query.dtype, torch.float32)
        scores = torch.matmul(grouped, keys[:, :, :used].transpose(-1, -2)).to(exact) * scale
        unused = torch.arange(used, device=query.device)[None] > self.lengths[:, None]
        scores = scores.masked_fill(unused[:, None, None], float("-inf"))
        lse = scores.logsumexp(-1)
        weights = (scores - lse[..., None]).exp().to(values.dtype)
        output = torch.matmul(weights, values[:, :, :used])
        shaped = output.permute(1, 2, 0, 3).reshape(heads, n, -1)
        return shaped.to(query.dtype), lse.permute(1, 2, 0).reshape(heads, n)
