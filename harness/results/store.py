"""A run directory: manifest, samples, parts; on local disk or any `pyarrow.fs` storage.

Every write is atomic: a reader sees the whole file or none of it.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from harness.errors import RunDirError
from harness.results.schema import SCHEMA, table_digest

UNIT_KEY, STATISTICS_KEY, DIGEST_KEY = b"harness_unit", b"harness_statistics", b"harness_digest"


class RunStore:
    """Reads and writes one run directory. Cheap to build anew in any process.

    Args:
        run_dir: a local path, or a URI such as `s3://bucket/results/name`.
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = run_dir
        if "://" in run_dir:
            try:
                self.fs, self.root = fs.FileSystem.from_uri(run_dir)
            except (pa.ArrowInvalid, OSError) as error:
                raise RunDirError(f"storage '{run_dir}' cannot be used: {error}") from None
        else:
            self.fs, self.root = fs.LocalFileSystem(), str(Path(run_dir).absolute())
        self.is_local = isinstance(self.fs, fs.LocalFileSystem)

    def path(self, *names: str) -> str:
        """A path inside the run directory, in the storage's own form."""
        return "/".join((self.root, *names))

    def create(self) -> None:
        """Make the directory and prove that it can be written.

        Raises:
            RunDirError: it cannot.
        """
        try:
            self.fs.create_dir(self.path("parts"), recursive=True)
            self.write_bytes(".writable", b"")
            self.fs.delete_file(self.path(".writable"))
        except OSError as error:
            reason = " ".join(str(error).split())
            raise RunDirError(
                f"the run directory '{self.run_dir}' cannot be written: {reason}; "
                "set out=... to a folder or storage you may write"
            ) from None

    def exists(self, *names: str) -> bool:
        """Whether a file or folder is there."""
        return bool(self.fs.get_file_info(self.path(*names)).type != fs.FileType.NotFound)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file as a whole: renamed into place locally, one put on object stores."""
        target = self.path(name)
        if not self.is_local:
            with self.fs.open_output_stream(target) as stream:
                stream.write(data)
            return
        temporary = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def read_bytes(self, name: str) -> bytes:
        """All of a file."""
        with self.fs.open_input_stream(self.path(name)) as stream:
            data: bytes = stream.read()
        return data

    def write_json(self, name: str, value: Any) -> None:
        """A JSON document, readable by people."""
        self.write_bytes(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """A JSON document of the run directory.

        Raises:
            RunDirError: not there, or not JSON.
        """
        try:
            return json.loads(self.read_bytes(name))
        except FileNotFoundError:
            raise RunDirError(f"'{self.run_dir}' has no {name}; expected a run directory") from None
        except ValueError:
            raise RunDirError(f"'{self.run_dir}/{name}' is damaged; start anew with --fresh") from None

    def write_table(self, name: str, table: pa.Table) -> None:
        """A parquet file with page checksums."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        self.write_bytes(name, sink.getvalue().to_pybytes())

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A parquet file of the run directory.

        Raises:
            RunDirError: not there, damaged, or without these columns.
        """
        try:
            with self.fs.open_input_file(self.path(name)) as source:
                return pq.read_table(source, columns=columns)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RunDirError(f"'{self.run_dir}/{name}' cannot be read: {reason}; start anew with --fresh") from None

    def write_part(self, unit_id: str, table: pa.Table, statistics: dict[str, Any]) -> None:
        """Commit a unit's records; afterwards the unit is done.

        Args:
            unit_id: the unit.
            table: its records.
            statistics: what computing them took, kept beside them.
        """
        metadata = {
            UNIT_KEY: unit_id.encode(),
            STATISTICS_KEY: json.dumps(statistics).encode(),
            DIGEST_KEY: table_digest(table).encode(),
        }
        self.write_table(f"parts/{unit_id}.parquet", table.replace_schema_metadata(metadata))

    def part_ids(self) -> set[str]:
        """Units that have a part, whole or damaged."""
        infos = self.fs.get_file_info(fs.FileSelector(self.path("parts"), allow_not_found=True))
        return {info.base_name.removesuffix(".parquet") for info in infos if info.base_name.endswith(".parquet")}

    def read_part(self, unit_id: str, columns: list[str] | None = None) -> pa.Table:
        """A unit's records; all columns are verified against their digest when all are read.

        Raises:
            ValueError: the part is truncated, corrupted, or another unit's.
        """
        try:
            with self.fs.open_input_file(self.path("parts", f"{unit_id}.parquet")) as source:
                file = pq.ParquetFile(source, page_checksum_verification=True)
                schema = file.schema_arrow
                table = file.read(columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"part {unit_id} cannot be read: {' '.join(str(error).split())}") from None
        found = (schema.metadata or {}).get(UNIT_KEY, b"").decode()
        if found != unit_id or not schema.equals(SCHEMA, check_metadata=False):
            raise ValueError(f"part {unit_id} holds the records of another unit or version")
        if columns is None and table_digest(table) != schema.metadata.get(DIGEST_KEY, b"").decode():
            raise ValueError(f"part {unit_id} does not hold what was written")
        return table

    def read_statistics(self, unit_id: str) -> dict[str, Any]:
        """What a committed unit took, from its part's footer."""
        with self.fs.open_input_file(self.path("parts", f"{unit_id}.parquet")) as source:
            metadata = pq.ParquetFile(source).schema_arrow.metadata
        statistics: dict[str, Any] = json.loads(metadata[STATISTICS_KEY])
        return statistics

    def remove_part(self, unit_id: str) -> None:
        """Take a damaged part out of the way."""
        self.fs.delete_file(self.path("parts", f"{unit_id}.parquet"))

    def remove_leftovers(self) -> None:
        """Delete temporary files of writers that were killed."""
        for folder in (self.root, self.path("parts")):
            for info in self.fs.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
                if info.base_name.endswith(".tmp"):
                    self.fs.delete_file(info.path)

    @staticmethod
    def concatenate(tables: Sequence[pa.Table], columns: Sequence[str] | None = None) -> pa.Table:
        """Parts as one table; the schema's empty one when there are none."""
        if not tables:
            schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(c) for c in columns])
            return schema.empty_table()
        return pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
