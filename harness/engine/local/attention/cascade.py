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

from harness.engine.local.attention.cache import Kept, Layer, kept_for_later, layer_of
from harness.engine.local.attention.tree_attention import Needed, merge, reference_attention
from harness.engine.local.transfer import OnDevices
from harness.engine.local.tree.packing import Ancestors, Pack

Tensor = torch.Tensor
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spans:
    """Sequences laid end to end.

    Attributes:
        queries, keys: where each begins and the last ends, `(n_sequences + 1,)`, int32.
        most_queries, most_keys: of one sequence.
    """

    queries: OnDevices
    keys: OnDevices
    most_queries: int
    most_keys: int

    @classmethod
    def of(cls, query_ends: Sequence[int] | Ints, key_ends: Sequence[int] | Ints) -> Spans:
        """The spans of sequences whose queries and keys end at some places."""
        queries, keys = (np.concatenate([[0], ends]).astype(np.int32) for ends in (query_ends, key_ends))
        most = [int(np.diff(ends).max()) for ends in (queries, keys)]
        return cls(OnDevices(queries), OnDevices(keys), most[0], most[1])


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
        spans.queries.on(query.device),
        spans.keys.on(query.device),
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
    ranges = zip(pairwise(spans.queries.array.tolist()), pairwise(spans.keys.array.tolist()), strict=True)
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
    """Ranges of rows that do not overlap, in order, and the tokens above each.

    Attributes:
        rows: those of all ranges.
        query_ends, key_ends: of each range, counted over the ranges.
        own: places of the keys in the pack itself; None where they were kept from earlier packs.
        kept: of kept keys: path and number of its first tokens, range by range.
    """

    rows: slice | OnDevices
    query_ends: Ints
    key_ends: Ints
    own: slice | OnDevices | None
    kept: tuple[tuple[int, int], ...] = ()


def make_levels(pack: Pack) -> list[Level]:
    """The attention to tokens above, in as few levels as the tree is deep: keys of the pack itself, then kept ones."""
    found = []
    for is_own in (True, False):
        edges = [edge for edge in pack.ancestors if (edge.path >= pack.first_path) == is_own]
        levels: list[list[Ancestors]] = []
        for edge in sorted(edges, key=lambda edge: (edge.first, -edge.last)):
            free = next((level for level in levels if level[-1].last <= edge.first), None)
            if free is None:
                levels.append(free := [])
            free.append(edge)
        found += [_level(pack, level, is_own) for level in levels]
    return found


def _level(pack: Pack, edges: list[Ancestors], is_own: bool) -> Level:
    sizes = [edge.last - edge.first for edge in edges]
    n_keys = [edge.n_keys for edge in edges]
    rows = places([edge.first for edge in edges], sizes)
    ends = np.cumsum(sizes), np.cumsum(n_keys)
    if not is_own:
        return Level(rows, *ends, None, tuple((edge.path, edge.n_keys) for edge in edges))
    return Level(rows, *ends, places([pack.offsets[edge.path - pack.first_path] for edge in edges], n_keys))


def places(begins: Sequence[int], sizes: Sequence[int]) -> slice | OnDevices:
    """The places of some ranges, in order: a slice where each begins at the end of the one before it."""
    if all(begin + size == after for begin, size, after in zip(begins, sizes, begins[1:], strict=False)):
        return slice(begins[0], begins[-1] + sizes[-1])
    return OnDevices(
        np.concatenate([np.arange(begin, begin + size) for begin, size in zip(begins, sizes, strict=True)])
    )


def taken(vectors: Tensor, at: slice | OnDevices) -> Tensor:
    """The rows of `(n, heads, size)` at some places."""
    return vectors[at] if isinstance(at, slice) else vectors.index_select(0, at.on(vectors.device))


def merge_at(output: Tensor, lse: Tensor, at: slice | OnDevices, part: Tensor, sums: Tensor) -> None:
    """`merge` for some rows.

    Args:
        output: `(n, heads, size)` in the precision of the log-sum-exps.
        lse: `(heads, n)`.
        at: the rows.
        part: `(rows, heads, size)`.
        sums: `(heads, rows)`.
    """
    if isinstance(at, slice):
        merge(output[at].transpose(0, 1), lse[:, at], part.transpose(0, 1), sums)
        return
    index = at.on(output.device)
    merged, total = output.index_select(0, index), lse.index_select(1, index)
    merge(merged.transpose(0, 1), total, part.transpose(0, 1), sums)
    output.index_copy_(0, index, merged)
    lse.index_copy_(1, index, total)


class CascadeKernel:
    """Begins packs that attend by a cascade of calls.

    Args:
        varlen: attention of sequences laid end to end.
    """

    name = "cascade"

    def __init__(self, varlen: VarlenAttention = flash_varlen) -> None:
        self.varlen = varlen

    def begin(self, pack: Pack, kept: Kept, needed: Needed | None = None) -> CascadeState:
        """The state of one forward pass."""
        return CascadeState(self.varlen, pack, kept)


class CascadeState:
    """How one pack attends; see `harness.engine.local.attention.tree_attention.State`."""

    exact = False

    def __init__(self, varlen: VarlenAttention, pack: Pack, kept: Kept) -> None:
        self.varlen = varlen
        self.pack = pack
        self.kept = kept
        self.keep: dict[int, Layer] = {}
        self.own = Spans.of(pack.offsets[1:], pack.offsets[1:])
        self.levels = [(level, Spans.of(level.query_ends, level.key_ends)) for level in make_levels(pack)]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `State.attend`."""
        kept = layer_of(self.kept, layer)
        n_tokens = len(self.pack.tokens)
        rows, keys, values = (x[:, :n_tokens].transpose(0, 1) for x in (query, key, value))
        output, lse = self.varlen(rows, keys, values, self.own, scale, True)
        if self.levels:
            # Merged in the precision of the log-sum-exps, and rounded once.
            output = output.to(lse.dtype)
        for level, spans in self.levels:
            if level.own is None:
                seen, summed = _joined(kept, level.kept)
            else:
                seen, summed = taken(keys, level.own), taken(values, level.own)
            part, sums = self.varlen(taken(rows, level.rows), seen, summed, spans, scale, False)
            merge_at(output, lse, level.rows, part, sums)
        self.keep[layer] = kept_for_later(self.pack, kept, keys.transpose(0, 1), values.transpose(0, 1))
        return with_rows(output.to(query.dtype), query.shape[1]).transpose(0, 1)


def with_rows(found: Tensor, n_rows: int) -> Tensor:
    """`(n, ...)` with rows of zeros that no token has, up to a number of rows."""
    missing = n_rows - found.shape[0]
    return found if not missing else torch.cat([found, found.new_zeros(missing, *found.shape[1:])])


def _joined(kept: Layer, wanted: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Keys and values `(n_keys, kv_heads, head_size)` of the first tokens of kept paths, end to end."""
    keys = [kept[path][0][:, :n].transpose(0, 1) for path, n in wanted]
    values = [kept[path][1][:, :n].transpose(0, 1) for path, n in wanted]
    return (keys[0], values[0]) if len(wanted) == 1 else (torch.cat(keys), torch.cat(values))
