"""`samples.parquet`: what was asked, so that records can be read without the task and its data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from harness.core.errors import RunDirError
from harness.results import layout
from harness.results.parts import FORMAT_KEY
from harness.results.store import RunStore

if TYPE_CHECKING:
    from harness.core.task import Sample

NAME = "samples.parquet"
KEPT = {"sample_id": pa.string(), "gold": pa.int32(), "answers": pa.list_(pa.string()), "cluster": pa.string()}
"""Columns of every task, with their types; the others are the samples' fields, texts."""
CHOICES = "sample_choices"
"""Column of texts, of tasks whose samples bring choices."""
OPTIONAL = {CHOICES: pa.list_(pa.string())}


def table_of(samples: Sequence[Sample]) -> pa.Table:
    """Samples as `samples.parquet` keeps them."""
    columns: dict[str, Any] = {
        "sample_id": [s.id for s in samples],
        "gold": pa.array([s.gold for s in samples], pa.int32()),
        "answers": pa.array([list(s.answers) for s in samples], pa.list_(pa.string())),
        "cluster": [s.cluster for s in samples],
    }
    if samples[0].choices:
        columns[CHOICES] = pa.array([list(s.choices) for s in samples], OPTIONAL[CHOICES])
    for name in samples[0].fields:
        columns[name] = [s.fields[name] for s in samples]
    return pa.table(columns)


def write_samples(store: RunStore, samples: Sequence[Sample]) -> None:
    """Put the samples of a run, which are at least one, into its directory."""
    metadata = {FORMAT_KEY: str(layout.FORMAT).encode()}
    store.write_table(NAME, table_of(samples).replace_schema_metadata(metadata))


def read_samples(store: RunStore, columns: list[str] | None = None) -> pa.Table:
    """The samples of a run directory.

    Args:
        store: of the run directory.
        columns: those to read; None reads all.

    Returns:
        A table with the columns of `KEPT` (as far as they are read) and texts, ids unique.

    Raises:
        RunDirError: not there, damaged, written by a newer version, or not laid out like this.
    """
    table = store.read_table(NAME, columns)
    fault = _fault(table, KEPT if columns is None else [name for name in columns if name in KEPT])
    if fault:
        raise RunDirError(f"'{store.run_dir}/{NAME}' is damaged: {fault}; {store.anew()}")
    return table


def check_known(store: RunStore, known: Iterable[str], ids: Iterable[str]) -> None:
    """Refuse records of samples that the run directory does not hold.

    Args:
        store: of the run directory.
        known: ids of its samples.
        ids: of its records.

    Raises:
        RunDirError: naming the first of them.
    """
    strange = sorted(set(ids) - set(known))
    if strange:
        raise RunDirError(
            f"'{store.run_dir}/{NAME}' lacks {len(strange):,} of the samples that its records name, '{strange[0]}' "
            f"first; it belongs to another run, {store.anew()}"
        )


def _fault(table: pa.Table, needed: Iterable[str]) -> str:
    for name in needed:
        if name not in table.column_names:
            return f"it has no column '{name}'"
        if table.schema.field(name).type != KEPT[name]:
            return f"its column '{name}' holds {table.schema.field(name).type}, expected {KEPT[name]}"
    for field in table.schema:
        if field.name not in KEPT and field.type != OPTIONAL.get(field.name, pa.string()):
            return f"its column '{field.name}' holds {field.type}, expected texts"
        if table[field.name].null_count and field.name != "answers":
            return f"its column '{field.name}' has empty places"
    if "sample_id" in table.column_names and pc.count_distinct(table["sample_id"]).as_py() != table.num_rows:
        return "its ids come twice"
    return ""
