"""Common prefixes of token sequences. Knows numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt


def shared_prefix_lengths(sequences: Sequence[npt.NDArray[np.int32]]) -> list[int]:
    """Length of the common prefix of each sequence with the one before it; 0 for the first."""
    lengths = [0]
    for before, here in pairwise(sequences):
        size = min(len(before), len(here))
        differs = before[:size] != here[:size]
        first = int(differs.argmax()) if size else 0
        lengths.append(first if size and differs[first] else size)
    return lengths


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common prefix of two sequences."""
    size = min(len(first), len(second))
    return next((i for i in range(size) if first[i] != second[i]), size)


Ids = Sequence[int] | npt.NDArray[np.int32]


def count_unique_tokens(sequences: Sequence[Ids]) -> int:
    """Nodes of the prefix tree: what computing every unique token once costs."""
    ordered = sorted({sort_key(s): np.asarray(s, dtype=np.int32) for s in sequences}.items())
    arrays = [array for _, array in ordered]
    return sum(len(a) for a in arrays) - sum(shared_prefix_lengths(arrays))


def sort_key(sequence: Ids) -> bytes:
    """Bytes that sort as the sequences do."""
    return np.asarray(sequence, dtype=">i4").tobytes()
