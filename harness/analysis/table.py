"""Records as one matrix: a value per cell and sample, with what is missing left visible.

Knows records; refuses to know runs and files. K = 0 has no demonstrations, so its copies under
several seeds are one cell here, whose seed is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.cells import is_zero_shot
from harness.core.errors import ConfigError, DataError, did_you_mean

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

AXES = ("run", "model", "template", "k", "seed", "calibration")
"""What tells the cells of one task apart; `run` where several runs are read together, `calibration` where corrected
predictions stand beside those as scored."""
ACCURACY = "accuracy"
"""The value 1 for a right and 0 for a wrong prediction."""


@dataclass(frozen=True)
class ValueTable:
    """One value per cell and sample."""

    name: str
    """What the values are: `accuracy` (0 or 1) or a metric of the task."""
    cells: pd.DataFrame
    """One row per cell, columns `AXES`; `seed` is null for K = 0, `template` for references, and `k` and `seed`
    for those that came trained."""
    sample_ids: NDArray[np.object_]
    """(samples,)"""
    clusters: IntArray | None
    """(samples,) codes 0..G-1 of the paragraph or document that a sample belongs to; None when
    the samples are independent."""
    values: FloatArray
    """(cells, samples); NaN where the sample failed or was not attempted."""
    attempted: BoolArray
    """(cells, samples): there is a record."""
    tokens: FloatArray
    """(cells,) mean tokens of a prompt; NaN where unknown, and for references."""

    def only(self, cells: pd.DataFrame) -> ValueTable:
        """The table of some of its cells, given by their rows."""
        return replace(
            self,
            cells=cells.reset_index(drop=True),
            values=self.values[cells.index],
            attempted=self.attempted[cells.index],
            tokens=self.tokens[cells.index],
        )

    @property
    def of_tokens(self) -> ValueTable:
        """The same cells with their `tokens` as the values of one sample, to be averaged as values are."""
        return replace(
            self,
            name="tokens",
            sample_ids=self.sample_ids[:1],
            clusters=None,
            values=self.tokens[:, None],
            attempted=np.ones((len(self.cells), 1), dtype=bool),
        )

    @property
    def n_scored(self) -> IntArray:
        """(cells,) samples with a value."""
        counts: IntArray = np.isfinite(self.values).sum(axis=1)
        return counts

    @property
    def n_attempted(self) -> IntArray:
        """(cells,) samples with a record."""
        counts: IntArray = self.attempted.sum(axis=1)
        return counts


def value_table(records: pd.DataFrame, value: str = ACCURACY, clusters: Mapping[str, str] | None = None) -> ValueTable:
    """The table of one value.

    Args:
        records: rows per (cell, sample) with `model`, `task`, `template`, `k`, `seed`,
            `sample_id`, optionally `run` and `n_prompt_tokens`; for `accuracy` also `gold` and `prediction`,
            else a column of the value's name.
        value: `accuracy` or the name of a float column; NaN marks failed samples.
        clusters: sample id to cluster; a missing or empty cluster is the sample itself.

    Raises:
        DataError: no records, several tasks, a sample twice in a cell or with two gold labels.
        ConfigError: no such value.
    """
    if records.empty:
        raise DataError("no records to compare; run or resume the grid with `harness run`")
    tasks = sorted(records["task"].unique())
    if len(tasks) > 1:
        raise DataError(f"records of {len(tasks)} tasks ({', '.join(tasks)}); compare runs of one task")
    frame = records.assign(
        run=records.get("run", ""),
        calibration=records.get("calibration", ""),
        value=_values(records, value),
        seed=records["seed"].astype("Int64"),
    )
    frame = _one_row_per_k0_sample(frame)
    groups = frame.groupby(list(AXES), sort=False, observed=True, dropna=False).ngroup()
    cell_codes = np.asarray(groups, dtype=np.int64)
    sample_codes, sample_ids = pd.factorize(frame["sample_id"])
    firsts = np.unique(cell_codes, return_index=True)[1]
    shape = (len(firsts), len(sample_ids))
    attempted = np.zeros(shape, dtype=bool)
    attempted[cell_codes, sample_codes] = True
    if int(attempted.sum()) != len(frame):
        raise DataError("a sample has several records in one cell; give each run directory once")
    values = np.full(shape, np.nan)
    values[cell_codes, sample_codes] = frame["value"].to_numpy(dtype=float)
    ids = np.asarray(sample_ids, dtype=object)
    cells = _cells_of(frame.iloc[firsts][list(AXES)])
    return ValueTable(
        name=value,
        cells=cells,
        sample_ids=ids,
        clusters=cluster_codes(ids.tolist(), clusters),
        values=values,
        attempted=attempted,
        tokens=_tokens(frame, cell_codes, cells),
    )


def _tokens(frame: pd.DataFrame, cell_codes: IntArray, cells: pd.DataFrame) -> FloatArray:
    """Mean tokens of the prompts of each cell; corrected predictions stand on the prompts that they correct."""
    if "n_prompt_tokens" not in frame:
        return np.full(len(cells), np.nan)
    counts = frame["n_prompt_tokens"].astype("Float64").to_numpy(dtype=float, na_value=np.nan)
    known = np.isfinite(counts)
    n = np.bincount(cell_codes[known], minlength=len(cells))
    sums = np.bincount(cell_codes[known], weights=counts[known], minlength=len(cells))
    means = cells.assign(tokens=np.divide(sums, n, out=np.full(len(cells), np.nan), where=n > 0))
    prompt = [axis for axis in AXES if axis != "calibration"]
    filled = means.groupby(prompt, sort=False, dropna=False)["tokens"].transform("max")
    return np.asarray(filled, dtype=np.float64)


def _cells_of(rows: pd.DataFrame) -> pd.DataFrame:
    cells = rows.astype(dict.fromkeys(("run", "model", "calibration"), str)).reset_index(drop=True)
    # As text, a template that is not there would be called so.
    templates = [None if pd.isna(name) else str(name) for name in cells["template"]]
    return cells.assign(template=pd.Series(templates, index=cells.index, dtype=str))


def cluster_codes(sample_ids: Sequence[str], clusters: Mapping[str, str] | None) -> IntArray | None:
    """Codes 0..G-1 of the samples' clusters; None when every sample is by itself."""
    if clusters is None:
        return None
    # A tuple cannot collide with the text of a real cluster.
    names = [clusters.get(i) or ("", i) for i in sample_ids]
    codes: dict[object, int] = {}
    found = np.array([codes.setdefault(name, len(codes)) for name in names], dtype=np.int64)
    return None if len(codes) == len(sample_ids) else found


def is_binary(values: FloatArray) -> bool:
    """Whether all values that are there are 0 or 1."""
    known = values[np.isfinite(values)]
    return bool(((known == 0) | (known == 1)).all())


def _values(records: pd.DataFrame, value: str) -> FloatArray:
    if value == ACCURACY:
        if {"gold", "prediction"} - set(records) or not _has_gold(records):
            raise ConfigError("these records have no gold labels, so no accuracy; choose a metric of the task")
        gold = records["gold"].astype("Int64")
        golds = pd.DataFrame({"sample_id": records["sample_id"], "gold": gold}).drop_duplicates()
        twice = golds.loc[golds["sample_id"].duplicated(), "sample_id"]
        if len(twice):
            raise DataError(f"sample '{twice.iloc[0]}' has two gold labels; compare runs over the same samples")
        right = (records["prediction"].astype("Int64") == gold).astype("Float64")
        return np.asarray(right.to_numpy(dtype=float, na_value=np.nan), dtype=np.float64)
    floats = [str(c) for c in records.columns if pd.api.types.is_float_dtype(records[c].dtype)]
    if value not in floats:
        raise ConfigError(f"no metric '{value}' in the records{did_you_mean(value, [ACCURACY, *floats])}")
    return np.asarray(records[value].to_numpy(dtype=float), dtype=np.float64)


def _has_gold(records: pd.DataFrame) -> bool:
    return bool((records["gold"].fillna(-1) >= 0).all())


def _one_row_per_k0_sample(frame: pd.DataFrame) -> pd.DataFrame:
    zero = is_zero_shot(frame)
    if not zero.any():
        return frame
    keys = ["run", "model", "template", "calibration", "sample_id"]
    kept = frame[zero].sort_values("seed", kind="stable").drop_duplicates(keys)
    kept["seed"] = pd.Series(pd.NA, index=kept.index, dtype="Int64")
    return pd.concat([frame[~zero], kept]).sort_index()
