"""A part's bytes: a unit's records as parquet, and in its footer whose they are, what they took and their digest.

Refuses to believe a footer: what it says is checked against bounds before a row is read, because a few
megabytes can claim a billion rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import RunDirError
from harness.core.escaping import one_line
from harness.results import layout
from harness.results.schema import LATER, SCHEMA, holds, table_digest

UNIT_KEY, STATISTICS_KEY, DIGEST_KEY = b"harness_unit", b"harness_statistics", b"harness_digest"
FORMAT_KEY, CELLS_KEY = b"harness_format", b"harness_cells"
NO_K = "none"
"""In the place of K in a footer: of a reference that came trained."""
MOST_ROWS = 10_000_000
"""Of any parquet file of a run directory: more than a run could commit at once."""
MOST_BYTES = 2**31
"""Of its columns, unpacked."""


def metadata_of(
    unit_id: str, table: pa.Table, statistics: dict[str, Any], keys: Mapping[int | None, str]
) -> dict[bytes, bytes]:
    """The footer's entries of a unit's records; `keys` are those of its cells by their K."""
    return {
        UNIT_KEY: unit_id.encode(),
        STATISTICS_KEY: json.dumps(statistics).encode(),
        DIGEST_KEY: table_digest(table).encode(),
        FORMAT_KEY: str(layout.FORMAT).encode(),
        **({CELLS_KEY: json.dumps({_named(k): key for k, key in keys.items()}).encode()} if keys else {}),
    }


def _named(k: int | None) -> str:
    return NO_K if k is None else str(k)


def cells_of(table: pa.Table) -> dict[int | None, str]:
    """What a part's footer says that the records of each K depend on, as content hashes.

    Args:
        table: from `decode`.

    Returns:
        K to hash; nothing for parts of format 1, which do not say it.

    Raises:
        ValueError: damaged.
    """
    try:
        found = json.loads((table.schema.metadata or {}).get(CELLS_KEY, b"{}"))
        if fault := layout.mapped(layout.text)(found, "cells"):
            raise ValueError(fault)
        return {None if k == NO_K else int(k): key for k, key in found.items()}
    except RecursionError:
        raise ValueError("cells are nested too deep") from None


def decode(data: bytes, unit_id: str, columns: list[str] | None = None, most_rows: int | None = None) -> pa.Table:
    """A unit's records, verified against their digest whatever columns are asked for.

    Args:
        data: the whole file.
        unit_id: whose records they should be.
        columns: those to keep; None keeps all of `SCHEMA`.
        most_rows: more than the unit can have is damage; None allows `MOST_ROWS`.

    Raises:
        ValueError: truncated, corrupted, of another unit, or larger than any such part can be.
        RunDirError: a newer version wrote it.
    """
    try:
        file = open_parquet(data, MOST_ROWS if most_rows is None else min(most_rows, MOST_ROWS))
        schema = file.schema_arrow
    except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"part {unit_id} cannot be read: {one_line(str(error), 200)}") from None
    found = schema.metadata or {}
    check_format(f"part {unit_id}", found)
    known = pa.schema([field for field in SCHEMA if field.name in schema.names or field.name not in LATER])
    if found.get(UNIT_KEY) != unit_id.encode() or not schema.equals(known, check_metadata=False):
        raise ValueError(f"part {unit_id} holds the records of another unit or version")
    said = _rows_said(found.get(STATISTICS_KEY, b""))
    if said is not None and said != file.metadata.num_rows:
        raise ValueError(f"part {unit_id} has {file.metadata.num_rows:,} rows, but its unit wrote {said:,}")
    try:
        table = file.read(use_threads=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"part {unit_id} cannot be read: {one_line(str(error), 200)}") from None
    if not holds(table, found.get(DIGEST_KEY, b"").decode(errors="replace")):
        raise ValueError(f"part {unit_id} does not hold what was written")
    for field in list(SCHEMA)[len(known) :]:
        table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table if columns is None else table.select(columns)


def open_parquet(data: bytes, most_rows: int = MOST_ROWS) -> pq.ParquetFile:
    """A parquet file whose footer claims no more than it may; rows are read later.

    Raises:
        ValueError: more rows or bytes.
        pyarrow.ArrowException, OSError: not parquet, or damaged.
    """
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    rows = max(file.metadata.num_rows, sum(group.num_rows for group in groups))
    size = sum(group.total_byte_size for group in groups)
    if not 0 <= rows <= most_rows:
        raise ValueError(f"it claims {rows:,} rows, expected at most {most_rows:,}")
    if not 0 <= size <= MOST_BYTES:
        raise ValueError(f"it claims {size:,} bytes, expected at most {MOST_BYTES:,}")
    return file


def statistics_of(data: bytes) -> dict[str, Any]:
    """What a unit took, from the end of its part, as it was written; see `checked`.

    Raises:
        ValueError: damaged.
        pyarrow.ArrowException, OSError: not parquet.
    """
    metadata = pq.ParquetFile(pa.BufferReader(data)).schema_arrow.metadata or {}
    statistics: dict[str, Any] = json.loads(metadata.get(STATISTICS_KEY, b"{}"))
    return statistics


def checked(statistics: Any) -> dict[str, Any]:
    """The statistics, if they are what `layout.STATISTICS` asks.

    Raises:
        ValueError: they are not.
    """
    if fault := layout.STATISTICS(statistics, "statistics"):
        raise ValueError(fault)
    found: dict[str, Any] = statistics
    return found


def amended(before: pa.Table, again: pa.Table) -> pa.Table:
    """A unit's records, those that failed replaced by what was computed again; the others are left as they are.

    Args:
        before: all records of the unit.
        again: records of some of its samples.
    """
    places = {key: before.num_rows + place for place, key in enumerate(_keys(again))}
    failed = before["error_type"].is_valid().to_pylist()
    rows = [
        places.get(key, place) if is_failed else place
        for place, (key, is_failed) in enumerate(zip(_keys(before), failed, strict=True))
    ]
    both = [table.replace_schema_metadata(None) for table in (before, again)]
    return pa.concat_tables(both).take(pa.array(rows, pa.int64())).combine_chunks()


def _keys(table: pa.Table) -> list[tuple[Any, ...]]:
    """What tells the records of one unit apart."""
    return list(zip(*(table[name].to_pylist() for name in ("k", "seed", "sample_id")), strict=True))


def added(before: dict[str, Any], again: dict[str, Any], table: pa.Table) -> dict[str, Any]:
    """The statistics of a unit of which some samples were computed again.

    Args:
        before: of its part.
        again: of the samples.
        table: its records now.
    """
    effort = ("n_prompts", "prompt_tokens", "tokens_computed", "seconds", "scoring_seconds")
    sums = {name: before.get(name, 0) + again.get(name, 0) for name in effort}
    n_failed = table.num_rows - table["error_type"].null_count
    return {**before, **again, **sums, "n_records": table.num_rows, "n_failed": n_failed}


def check_format(subject: str, metadata: dict[bytes, bytes]) -> None:
    """Refuse what a newer version wrote.

    Raises:
        RunDirError: naming both formats.
    """
    found = metadata.get(FORMAT_KEY, b"1").decode(errors="replace")
    if re.fullmatch(r"\d{1,9}", found) and int(found) > layout.FORMAT:
        raise RunDirError(
            f"{subject} has the format {found}, expected {layout.FORMAT}: a newer version of this program wrote it; "
            "use that version"
        )


def _rows_said(statistics: bytes) -> int | None:
    """The number of rows in the footer's statistics; None where they are damaged, which costs no record."""
    try:
        said = json.loads(statistics)["n_records"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return said if isinstance(said, int) else None
