"""Reading runs back, with pandas."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from harness.results import layout
from harness.results import manifest as manifests
from harness.results.once import CELL, Once, under_every_seed
from harness.results.store import RunStore

log = logging.getLogger(__name__)
ORDER = [*CELL, "sample_id"]
NAMES = ("model", "task", "template", "sample_id")
CLASSES = ("gold", "prediction", "greedy_prediction")
CHECKED = [*ORDER, *CLASSES, "label_logprobs", "answer_values"]
"""Columns that are held against the manifest before records are used."""
NULLABLE = ("prediction", "greedy_prediction", "argmax_token", "n_prompt_tokens", "n_generated_tokens")


def load_records(
    run_dir: str,
    columns: Sequence[str] | None = None,
    unit_ids: Collection[str] | None = None,
    *,
    categories: bool = False,
) -> pd.DataFrame:
    """All committed records of a run, one row per (cell, sample); those of K=0, stored once, under every seed.

    Args:
        run_dir: a run directory, local or a storage URI; the run may still be going on.
        unit_ids: the units to read; None reads all that are committed, without those over
            content-free inputs (`scoring.calibration`).
        columns: the columns to read; None reads all of `harness.results.schema.SCHEMA`.
        categories: give names of cells and samples as categories in alphabetical order: of millions of
            records, half of the memory.

    Returns:
        Rows sorted by model, task, template, K, seed and sample id (as far as those columns are
        read). References have no template, and where they came trained no K and no seed.
        `label_logprobs` are nats, in label order; `prediction` is null and `error` is text where a sample failed.
        Generated answers have a column per metric, NaN where they failed.

    Raises:
        RunDirError: not a run directory.
    """
    store, manifest, unit_ids = _opened(run_dir, unit_ids)
    names = list(columns) if columns is not None else None
    parts = _whole_parts(store, manifest, unit_ids, names)
    tables = [_encoded(part) for part in parts] if categories else list(parts)
    frame = _frame(RunStore.concatenate(tables, columns), manifest)
    for name in NAMES if categories else ():
        if name in frame:
            names_now = frame[name].astype("category").cat
            frame[name] = names_now.reorder_categories(sorted(names_now.categories))
    keys = [key for key in ORDER if key in frame]
    return frame.sort_values(keys, kind="stable", ignore_index=True) if keys else frame


def records_by_cell(
    run_dir: str, columns: Sequence[str], unit_ids: Collection[str] | None = None
) -> Iterator[pd.DataFrame]:
    """What `load_records` gives, one frame per cell, in a fraction of its memory.

    Args:
        run_dir: as there.
        columns: as there; those of `CELL` among them are read in any case.
        unit_ids: as there.

    Yields:
        The records of one cell with the same values in the same order; cells sorted as there.
    """
    store, manifest, unit_ids = _opened(run_dir, unit_ids)
    values = [name for name in columns if name not in CELL]
    held: defaultdict[tuple[Any, ...], list[pa.Table]] = defaultdict(list)
    for table in _whole_parts(store, manifest, unit_ids, [*CELL, *values]):
        for cell, rows in _by_cell(table):
            held[cell].append(rows.select(values))
    for cell in sorted(held, key=lambda cell: [(part is None, part) for part in cell]):
        frame = _frame(RunStore.concatenate(held.pop(cell)), manifest)
        if "sample_id" in frame:
            frame = frame.sort_values("sample_id", kind="stable", ignore_index=True)
        yield frame.assign(**dict(zip(CELL, cell, strict=True)))


def _opened(run_dir: str, unit_ids: Collection[str] | None) -> tuple[RunStore, dict[str, Any], Collection[str]]:
    """The store of a run directory, its manifest, and the units to read."""
    store = RunStore(run_dir)
    manifest = manifests.read_manifest(store, "config", "class_names", "n_samples")
    if unit_ids is None:
        unit_ids = store.part_ids() - set(manifest.get("calibration_units", ()))
    return store, manifest, unit_ids


def _whole_parts(
    store: RunStore, manifest: dict[str, Any], unit_ids: Collection[str], columns: list[str] | None
) -> Iterator[pa.Table]:
    """The parts that are what they should be, with these columns; the others are told."""
    wanted = None if columns is None else list(dict.fromkeys([*columns, *CHECKED]))
    once, seeds = Once(), manifest["config"]["grid"]["seeds"]
    for unit_id, part in store.read_parts(unit_ids, wanted, most_rows(manifest)):
        misfit = "" if isinstance(part, ValueError) else _misfit(part, manifest)
        if isinstance(part, ValueError):
            log.warning("%s; `harness run` computes it again", part)
        elif misfit:
            log.warning("part %s is left out: %s, unlike what the manifest says of this run", unit_id, misfit)
        else:
            new = under_every_seed(once.take(part), seeds)
            if new.num_rows:
                yield new if columns is None else new.select(columns)


def most_rows(manifest: dict[str, Any]) -> int:
    """More rows than a unit of this run can have; of early manifests without `shard_size`, than the run."""
    grid, n_samples = manifest["config"]["grid"], int(manifest["n_samples"])
    rows_of_sample = len(grid["k"]) + len(grid["seeds"])
    # Content-free inputs are three at most, whatever the samples.
    if (manifest["config"].get("finetune") or {}).get("sizes"):
        # What a run trains is judged on all samples at once.
        return max(n_samples, 3) * rows_of_sample
    if "shard_size" in manifest:
        return max(min(int(manifest["shard_size"]), n_samples), 3) * rows_of_sample
    n_models = len(layout.model_names(manifest["config"]))
    return max(n_samples, 3) * n_models * len(grid["templates"]) * len(grid["k"]) * len(grid["seeds"])


def _misfit(part: pa.Table, manifest: dict[str, Any]) -> str:
    """What a part holds that no unit of this run could have written; an empty text where all fits."""
    # A reference has no template, and where it came trained no K and no seed.
    optional = ("template", "k", "seed") if layout.reference_names(manifest) else ()
    for name in (*ORDER, "gold"):
        if part[name].null_count and name not in optional:
            return f"its column '{name}' has empty places"
    n_classes, n_metrics = len(manifest["class_names"]), len(manifest.get("answer_metrics", ()))
    least = 2 if manifest.get("choices") else n_classes
    for name in CLASSES:
        bounds = pc.min_max(part[name]).as_py()
        if bounds["min"] is not None and not -1 <= bounds["min"] <= bounds["max"] < max(1, n_classes):
            return f"its column '{name}' names a class {bounds['max']} of {n_classes}"
    for name, fewest, length in (("label_logprobs", least, n_classes), ("answer_values", n_metrics, n_metrics)):
        bounds = pc.min_max(pc.list_value_length(part[name])).as_py()
        if bounds["min"] is not None and not fewest <= bounds["min"] <= bounds["max"] <= length:
            return f"its column '{name}' holds {bounds['max']} values a row, expected {length}"
    return ""


def _encoded(table: pa.Table) -> pa.Table:
    """A part with each name stored once."""
    for place, name in enumerate(table.column_names):
        if name in NAMES:
            table = table.set_column(place, name, table[name].dictionary_encode())
    return table


def _by_cell(table: pa.Table) -> Iterator[tuple[tuple[Any, ...], pa.Table]]:
    """A part's rows cell by cell, each cell's in their order."""
    codes = np.zeros(table.num_rows, dtype=np.int64)
    for name in CELL:
        encoded = table[name].combine_chunks().dictionary_encode("encode")
        codes = codes * len(encoded.dictionary) + encoded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    table, codes = table.take(pa.array(order)), codes[order]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(codes)], strict=True):
        rows = table.slice(start, end - start)
        yield tuple(rows[name][0].as_py() for name in CELL), rows


def _frame(table: pa.Table, manifest: dict[str, Any]) -> pd.DataFrame:
    """Records with pandas' nullable integers, and a column per metric of generated answers."""
    frame: pd.DataFrame = table.to_pandas()
    for name, kind in (("k", "Int32"), ("seed", "Int64")):
        if name in frame and table[name].null_count:
            # By way of floats large seeds would change.
            frame[name] = pd.array(table[name].to_pylist(), dtype=kind)
    for name in NULLABLE:
        if name in frame:
            frame[name] = frame[name].astype("Int32")
    metrics = manifest.get("answer_metrics", [])
    if metrics and "answer_values" in frame:
        failed = [math.nan] * len(metrics)
        rows = [failed if row is None else row for row in frame["answer_values"]]
        values = np.asarray(rows, dtype=float).reshape(len(frame), len(metrics))
        for place, name in enumerate(metrics):
            frame[name] = values[:, place]
    return frame
