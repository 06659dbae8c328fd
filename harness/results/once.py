"""Records of parts as the grid has them: each once, those of K=0 under every seed.

Without demonstrations the seed changes nothing, so K=0 is stored once, under whichever seed it was computed
first. Run directories of format 1 hold it under every seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

CELL = ["model", "task", "template", "k", "seed"]


class Once:
    """Drops what was read before, over all parts of a run.

    Two drivers that each took the other for dead may have computed the same records in different units.
    """

    def __init__(self) -> None:
        self._cells: dict[tuple[object, ...], int] = {}
        self._samples: dict[str, int] = {}
        self._seen: list[NDArray[np.bool_]] = []

    def take(self, table: pa.Table) -> pa.Table:
        """The rows of a part that no part before it has had; of K=0 one per sample.

        Args:
            table: with the columns of `CELL` and `sample_id`.
        """
        cells, samples = self._cell_codes(table), self._sample_codes(table)
        pairs = cells * (int(samples.max(initial=0)) + 1) + samples
        is_first = np.zeros(table.num_rows, dtype=bool)
        is_first[np.unique(pairs, return_index=True)[1]] = True
        for cell in np.unique(cells):
            rows = np.flatnonzero((cells == cell) & is_first)
            seen = self._seen[cell]
            if len(seen) < len(self._samples):
                seen = np.append(seen, np.zeros(len(self._samples) - len(seen), dtype=bool))
            is_first[rows[seen[samples[rows]]]] = False
            seen[samples[rows]] = True
            self._seen[cell] = seen
        return table if is_first.all() else table.filter(pa.array(is_first))

    def _cell_codes(self, table: pa.Table) -> NDArray[np.int64]:
        codes = np.zeros(table.num_rows, dtype=np.int64)
        names: list[list[object]] = []
        seeds = pc.if_else(_is_zero_shot(table), 0, table["seed"])
        for column in (*(table[name] for name in CELL[:-1]), seeds):
            encoded = column.combine_chunks().dictionary_encode("encode")
            codes = codes * len(encoded.dictionary) + encoded.indices.to_numpy()
            names.append(encoded.dictionary.to_pylist())
        local, places = np.unique(codes, return_inverse=True)
        known = []
        for code in local.tolist():
            cell: list[object] = []
            for values in reversed(names):
                code, place = divmod(code, len(values))
                cell.append(values[place])
            known.append(self._cells.setdefault(tuple(cell), len(self._cells)))
        self._seen += [np.zeros(0, dtype=bool) for _ in range(len(self._cells) - len(self._seen))]
        return np.asarray(known, dtype=np.int64)[places] if len(local) else codes

    def _sample_codes(self, table: pa.Table) -> NDArray[np.int64]:
        encoded = table["sample_id"].combine_chunks().dictionary_encode()
        known = [self._samples.setdefault(name, len(self._samples)) for name in encoded.dictionary.to_pylist()]
        return np.asarray(known, dtype=np.int64)[encoded.indices.to_numpy()] if known else np.zeros(0, dtype=np.int64)


def under_every_seed(table: pa.Table, seeds: Sequence[int]) -> pa.Table:
    """Records with those of K=0 under each seed of the grid.

    Args:
        table: from `Once.take`, with the columns of `CELL`.
        seeds: of the grid.
    """
    is_zero = _is_zero_shot(table)
    if not pc.any(is_zero).as_py():
        return table
    zero, place = table.filter(is_zero), table.column_names.index("seed")
    kind = table.schema.field("seed").type
    copies = [zero.set_column(place, "seed", pa.array([seed] * zero.num_rows, kind)) for seed in seeds]
    return pa.concat_tables([table.filter(pc.invert(is_zero)), *copies])


def _is_zero_shot(table: pa.Table) -> pa.ChunkedArray:
    """Which rows have no demonstrations; references are no prompts, whatever they were trained on."""
    return pc.fill_null(pc.equal(table["k"], 0), False)
