"""Attention of one decoding step: every sequence of a batch adds one token.

What sequences share stays shared: the keys and values of a prefix lie in memory once, and all
sequences below it attend to them in one call. Only the last tokens of each prompt and what was
generated since are laid out per sequence. What the host must know it counts itself: no step asks
the device for a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from harness.engine.local.attention.cache import WholeTree
from harness.engine.local.attention.cascade import Spans, VarlenAttention, merge_at, places, taken
from harness.engine.local.attention.tree_attention import merge, partial_attention
from harness.engine.local.transfer import OnDevices, to_device
from harness.engine.local.tree.tree import Ints, Tree

Tensor = torch.Tensor
MOST_TAIL = 64
"""Most tokens of a prompt that are laid out per sequence; the rest stays where it is."""
TAIL_STEP = 128
"""Where shared keys take one call a level, tails are attended to in such steps: one decoding step is like the next."""


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
        kept: keys and values of the tree; of layers whose shared keys are laid out anew only the tails are kept.
        room: most tokens that will be generated.
        varlen: attention of sequences laid end to end, one call for all prefixes of a level; None calls once
            for each prefix.
    """

    def __init__(
        self, places: Sequence[Place], kept: WholeTree, room: int, varlen: VarlenAttention | None = None
    ) -> None:
        self.places = list(places)
        self.kept = kept
        self.varlen = varlen
        self.step = 1 if varlen is None else TAIL_STEP
        self.sizes: Ints = np.asarray([p.tail[1] - p.tail[0] for p in places], dtype=np.int64)
        self.width = -(-(int(self.sizes.max()) + room) // self.step) * self.step
        self.exact = next(iter(kept.values())).tensors()[0].dtype == torch.float64
        devices = {layer.tensors()[0].device for layer in kept.values()}
        self.lengths = {device: to_device(self.sizes, device) for device in devices}
        self.tails = self._lay_out()
        self.levels = self._levels()
        self.above: dict[int, list[tuple[Tensor, Tensor]]] = {}
        if varlen is not None:
            for layer in list(kept):
                keys, values = (x.transpose(0, 1) for x in kept.pop(layer).tensors())
                self.above[layer] = [(taken(keys, level.keys), taken(values, level.keys)) for level in self.levels]

    @property
    def used(self) -> int:
        """Columns of the tails that the next step attends to: steps of equal rows and columns are alike."""
        return -(-(int(self.sizes.max()) + 1) // self.step) * self.step

    def _lay_out(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Per layer, keys and values `(n_sequences, kv_heads, width, head_size)`."""
        sizes = self.sizes
        begins = np.asarray([self.kept.starts[p.path] + p.tail[0] for p in self.places])
        columns = np.arange(int(sizes.max()))
        # Beyond a sequence's own tokens any token does: they are not attended to.
        index = OnDevices(np.where(columns < sizes[:, None], begins[:, None] + columns, begins[:, None]))
        tails = {}
        for number, layer in self.kept.items():
            both = []
            for tokens in layer.tensors():
                tail = tokens.new_zeros(len(sizes), tokens.shape[0], self.width, tokens.shape[2])
                tail[:, :, : len(columns)] = tokens[:, index.on(tokens.device)].transpose(0, 1)
                both.append(tail)
            tails[number] = both[0], both[1]
        return tails

    def _levels(self) -> list[_Level]:
        """The runs above the tails by their depth, counted from the root."""
        found = []
        for depth in range(1, max(len(p.runs) for p in self.places) + 1):
            # Counted so, sequences of one subtree agree, and they are neighbours.
            keys = [p.runs[-depth] if len(p.runs) >= depth else None for p in self.places]
            runs, row = [], 0
            for key, group in groupby(keys):
                size = len(list(group))
                if key is not None:
                    runs.append(Run(*key, row, row + size))
                row += size
            found.append(_Level.of(runs, self.kept.starts))
        return found

    def keep_rows(self, rows: list[int]) -> None:
        """Go on with these sequences only."""
        index = OnDevices(np.asarray(rows))
        self.places = [self.places[row] for row in rows]
        self.sizes = self.sizes[index.array]
        self.lengths = {device: lengths[index.on(device)] for device, lengths in self.lengths.items()}
        self.tails = {n: (k[index.on(k.device)], v[index.on(v.device)]) for n, (k, v) in self.tails.items()}
        before = self.levels
        self.levels = self._levels()
        for layer, parts in self.above.items():
            self.above[layer] = [
                part if old.runs_of_keys == new.runs_of_keys else _chosen(part, old, new)
                for part, old, new in zip(parts, before, self.levels, strict=False)
            ]

    def count_on_devices(self) -> None:
        """Count the token that a forward pass has added to every sequence where the next one looks for it."""
        for lengths in self.lengths.values():
            lengths += 1

    def step_done(self) -> None:
        """Count it on the host."""
        self.sizes = self.sizes + 1

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of one new token per sequence; `(heads, n_sequences, head_size)` in and out."""
        keys, values = self.tails[layer]
        lengths = self.lengths[keys.device]
        rows = torch.arange(len(self.places), device=keys.device)
        keys[rows, :, lengths] = key.transpose(0, 1).to(keys.dtype)
        values[rows, :, lengths] = value.transpose(0, 1).to(values.dtype)
        output, lse = self._own(query, keys, values, lengths, scale)
        if self.varlen is not None:
            return self._add_levels(layer, query, output, lse, scale)
        for run in (run for level in self.levels for run in level.runs):
            above_keys, above_values = self.kept[layer][run.path]
            at = slice(run.first, run.last)
            part, sums = partial_attention(
                query[None, :, at], above_keys[None, :, : run.n_keys], above_values[None, :, : run.n_keys], scale, False
            )
            merge(output[:, at], lse[:, at], part[0], sums[0])
        return output

    def _add_levels(self, layer: int, query: Tensor, output: Tensor, lse: Tensor, scale: float) -> Tensor:
        assert self.varlen is not None
        asked, merged = query.transpose(0, 1), output.transpose(0, 1).to(lse.dtype)
        for level, (keys, values) in zip(self.levels, self.above[layer], strict=True):
            part, sums = self.varlen(taken(asked, level.rows), keys, values, level.spans, scale, False)
            merge_at(merged, lse, level.rows, part, sums)
        return merged.to(query.dtype).transpose(0, 1)

    def _own(self, query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attention to each sequence's own tail, and its log-sum-exp."""
        heads, n, size = query.shape
        kv_heads, used = keys.shape[1], self.used
        grouped = query.view(kv_heads, heads // kv_heads, n, size).permute(2, 0, 1, 3)
        exact = torch.promote_types(query.dtype, torch.float32)
        scores = torch.matmul(grouped, keys[:, :, :used].transpose(-1, -2)).to(exact) * scale
        unused = torch.arange(used, device=query.device)[None] > lengths[:, None]
        scores = scores.masked_fill(unused[:, None, None], float("-inf"))
        lse = scores.logsumexp(-1)
        weights = (scores - lse[..., None]).exp().to(values.dtype)
        output = torch.matmul(weights, values[:, :, :used])
        shaped = output.permute(1, 2, 0, 3).reshape(heads, n, -1)
        return shaped.to(query.dtype), lse.permute(1, 2, 0).reshape(heads, n)


@dataclass(frozen=True)
class _Level:
    """Runs that do not overlap, in the order of their rows.

    Attributes:
        runs: path, keys and rows of each.
        rows: of all runs.
        keys: places of their keys in the tree, run by run.
        spans: of rows and keys, run by run.
    """

    runs: list[Run]
    rows: slice | OnDevices
    keys: slice | OnDevices
    spans: Spans

    @classmethod
    def of(cls, runs: list[Run], starts: Ints) -> _Level:
        sizes, n_keys = [run.last - run.first for run in runs], [run.n_keys for run in runs]
        return cls(
            runs,
            places([run.first for run in runs], sizes),
            places([int(starts[run.path]) for run in runs], n_keys),
            Spans.of(np.cumsum(sizes), np.cumsum(n_keys)),
        )

    @property
    def runs_of_keys(self) -> list[tuple[int, int]]:
        """Path and number of keys of each run."""
        return [(run.path, run.n_keys) for run in self.runs]


def _chosen(part: tuple[Tensor, Tensor], old: _Level, new: _Level) -> tuple[Tensor, Tensor]:
    """Keys and values of the runs that are left."""
    begins = dict(zip(old.runs_of_keys, np.cumsum([0, *(run.n_keys for run in old.runs)]).tolist(), strict=False))
    at = places([begins[key] for key in new.runs_of_keys], [run.n_keys for run in new.runs])
    return taken(part[0], at), taken(part[1], at)
