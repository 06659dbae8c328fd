"""Tree attention as a few calls of flash attention over sequences of different lengths.

All paths attend to themselves in one causal call. What lies above is cut into levels of ranges
that do not overlap, one dense call each; the results are merged by their log-sum-exps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from harness.engine.attention import Kept, Needed, merge, reference_attention
from harness.engine.keeping import kept_for_later
from harness.engine.packing import Ancestors, Pack
from harness.engine.transfer import to_device
from harness.engine.visibility import kept_above

Tensor = torch.Tensor
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spans:
    """Sequences laid end to end.

    Attributes:
        queries, keys: where each begins and the last ends, `(n_sequences + 1,)`, int32.
        most_queries, most_keys: of one sequence.
    """

    queries: Tensor
    keys: Tensor
    most_queries: int
    most_keys: int


VarlenAttention = Callable[[Tensor, Tensor, Tensor, Spans, float, bool], tuple[Tensor, Tensor]]
"""`(query, key, value, spans, scale, causal)` to output and log-sum-exp.

Query and output are `(n_queries, heads, head_size)`, key and value `(n_keys, kv_heads, head_size)`;
the log-sum-exp is `(heads, n_queries)`, nats, at least float32. Every sequence has queries and keys.
"""


def flash_varlen(
    query: Tensor, key: Tensor, value: Tensor, spans: Spans, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """torch's own flash attention, on CUDA in 16 bits."""
    output, lse, *_ = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        spans.queries,
        spans.keys,
        spans.most_queries,
        spans.most_keys,
        0.0,
        causal,
        False,
        scale=scale,
    )
    return output, lse


def reference_varlen(
    query: Tensor, key: Tensor, value: Tensor, spans: Spans, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """The same in plain operations, sequence by sequence, for any device."""
    groups = query.shape[1] // key.shape[1]
    outputs, sums = [], []
    ranges = zip(pairwise(spans.queries.tolist()), pairwise(spans.keys.tolist()), strict=True)
    for (first, last), (begin, end) in ranges:
        keys, values = (x[begin:end].transpose(0, 1).repeat_interleave(groups, dim=0) for x in (key, value))
        output, lse = reference_attention(query[first:last].transpose(0, 1), keys, values, scale, causal)
        outputs.append(output.transpose(0, 1))
        sums.append(lse)
    return torch.cat(outputs), torch.cat(sums, -1)


def why_not_flash(device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
    """Why torch's flash attention cannot be used, or None when it should."""
    if device.type != "cuda":
        return "it runs on CUDA only"
    if dtype not in (torch.bfloat16, torch.float16):
        return "it takes 16 bits only"
    if head_size % 8 or head_size > 256:
        return f"it takes no heads of {head_size}"
    major, minor = torch.cuda.get_device_capability(device)
    return None if major >= 8 else f"compute capability {major}.{minor} is below 8.0"


@dataclass(frozen=True)
class Level:
    """Ranges of rows that do not overlap, and the tokens above each, as indices."""

    rows: Ints
    keys: Ints
    """Into the pack's own tokens followed by the kept ones."""
    query_ends: Ints
    key_ends: Ints


def make_levels(pack: Pack) -> list[Level]:
    """The attention to tokens above, in as few levels as the tree is deep."""
    begins, begin = {}, len(pack.tokens)
    for path, n_keys in kept_above(pack):
        begins[path] = begin
        begin += n_keys
    levels: list[list[Ancestors]] = []
    for edge in sorted(pack.ancestors, key=lambda edge: (edge.first, -edge.last)):
        free = next((level for level in levels if level[-1].last <= edge.first), None)
        if free is None:
            levels.append(free := [])
        free.append(edge)

    def start(edge: Ancestors) -> int:
        return begins[edge.path] if edge.path < pack.first_path else pack.offsets[edge.path - pack.first_path]

    return [
        Level(
            np.concatenate([np.arange(edge.first, edge.last) for edge in level]),
            np.concatenate([np.arange(start(edge), start(edge) + edge.n_keys) for edge in level]),
            np.cumsum([edge.last - edge.first for edge in level]),
            np.cumsum([edge.n_keys for edge in level]),
        )
        for level in levels
    ]


class CascadeKernel:
    """Begins packs that attend by a cascade of calls.

    Args:
        varlen: attention of sequences laid end to end.
    """

    name = "cascade"

    def __init__(self, varlen: VarlenAttention = flash_varlen) -> None:
        self.varlen = varlen

    def begin(self, pack: Pack, kept: Kept, device: torch.device, needed: Needed | None = None) -> CascadeState:
        """The state of one forward pass."""
        return CascadeState(self.varlen, pack, kept)


class CascadeState:
    """How one pack attends; see `harness.engine.attention.State`."""

    exact = False

    def __init__(self, varlen: VarlenAttention, pack: Pack, kept: Kept) -> None:
        self.varlen = varlen
        self.pack = pack
        self.kept = kept
        self.keep: Kept = {}
        self.above = kept_above(pack)
        self.levels = make_levels(pack)
        self._layouts: dict[torch.device, tuple[Spans, list[tuple[Tensor, Tensor, Spans]]]] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `State.attend`."""
        kept = self.kept.get(layer, {})
        own, levels = self._layout(query.device)
        rows, keys, values = (x.transpose(0, 1) for x in (query, key, value))
        part, lse = self.varlen(rows, keys, values, own, scale, True)
        if levels:
            above = [kept[path] for path, _ in self.above]
            sizes = [n for _, n in self.above]
            keys = torch.cat([keys, *(k[:, :n].transpose(0, 1) for (k, _), n in zip(above, sizes, strict=True))])
            values = torch.cat([values, *(v[:, :n].transpose(0, 1) for (_, v), n in zip(above, sizes, strict=True))])
        # Merged in the precision of the log-sum-exps, and rounded once.
        output = part.transpose(0, 1).to(lse.dtype)
        for at, sources, spans in levels:
            part, sums = self.varlen(
                rows.index_select(0, at),
                keys.index_select(0, sources),
                values.index_select(0, sources),
                spans,
                scale,
                False,
            )
            merged, total = output.index_select(1, at), lse.index_select(1, at)
            merge(merged, total, part.transpose(0, 1), sums)
            output = output.index_copy(1, at, merged)
            lse = lse.index_copy(1, at, total)
        self.keep[layer] = kept_for_later(self.pack, kept, key, value)
        return output.to(query.dtype)

    def _layout(self, device: torch.device) -> tuple[Spans, list[tuple[Tensor, Tensor, Spans]]]:
        """Indices and spans on the device of a layer."""
        if device not in self._layouts:
            levels = [
                (
                    to_device(level.rows, device),
                    to_device(level.keys, device),
                    _spans(level.query_ends, level.key_ends, device),
                )
                for level in self.levels
            ]
            self._layouts[device] = _spans(self.pack.offsets[1:], self.pack.offsets[1:], device), levels
        return self._layouts[device]


def _spans(query_ends: Sequence[int] | Ints, key_ends: Sequence[int] | Ints, device: torch.device) -> Spans:
    queries, keys = (np.concatenate([[0], ends]).astype(np.int32) for ends in (query_ends, key_ends))
    most = [int(np.diff(places).max()) for places in (queries, keys)]
    return Spans(to_device(queries, device), to_device(keys, device), most[0], most[1])
