"""A run directory: manifest, samples, parts; on local disk or any `pyarrow.fs` storage.

Every write is atomic: a reader sees the whole file or none of it. Every operation has patience
with storage that fails for a while.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from harness.errors import RunDirError
from harness.results.retrying import PATIENCE, Patience, patiently
from harness.results.schema import SCHEMA, holds, table_digest

log = logging.getLogger(__name__)
T = TypeVar("T")
UNIT_KEY, STATISTICS_KEY, DIGEST_KEY = b"harness_unit", b"harness_statistics", b"harness_digest"
FOOTER_BYTES = 2**18
"""More than a part's footer takes: 22 columns of one row group, their least and greatest values cut at 4 KiB."""
READERS = 8
"""Parts read at a time: object stores answer slowly, but many at once."""
TELL_EVERY_S = 5.0
S3_TRIES = 3
GCS_SECONDS = 10
"""How long the stores' own clients try, silently, before an error reaches `retrying`."""


class RunStore:
    """Reads and writes one run directory. Cheap to build anew in any process.

    All methods raise `RunDirError` for what the user can mend (no room, no right, no such bucket)
    and `StorageError` when storage keeps failing; see `harness.results.retrying`.

    Args:
        run_dir: a local path, or a URI such as `s3://bucket/results/name`.
        patience: how long storage may fail.
    """

    def __init__(self, run_dir: str, patience: Patience = PATIENCE) -> None:
        self._patience = patience
        if "://" in run_dir:
            if urlsplit(run_dir).password:
                raise RunDirError(
                    "the storage URI holds a secret, which manifest and log would keep; expected credentials in the "
                    "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://)"
                )
            self.fs, self.root = patiently(run_dir, "opened", lambda: _open(run_dir), patience)
        else:
            self.fs, self.root = fs.LocalFileSystem(), str(Path(run_dir).absolute())
        self.run_dir = run_dir
        self.is_local = isinstance(self.fs, fs.LocalFileSystem)

    def path(self, *names: str) -> str:
        """A path inside the run directory, in the storage's own form."""
        return "/".join((self.root, *names))

    def create(self) -> None:
        """Make the directory and prove that it can be written.

        Raises:
            RunDirError: it cannot.
        """
        self._write("parts", lambda: self.fs.create_dir(self.path("parts"), recursive=True))
        self.write_bytes(".writable", b"")
        self.remove(".writable")

    def exists(self, *names: str) -> bool:
        """Whether a file or folder is there."""
        info = self._do("/".join(names), "looked up", lambda: self.fs.get_file_info(self.path(*names)))
        return bool(info.type != fs.FileType.NotFound)

    def files(self, *names: str) -> dict[str, int]:
        """Files of a folder of the run directory; one listing, however many they are.

        Returns:
            Name to the time of the last change by the storage's clock, nanoseconds since the epoch.
        """
        selector = fs.FileSelector(self.path(*names), allow_not_found=True)
        infos = self._do("/".join(names), "listed", lambda: self.fs.get_file_info(selector))
        return {info.base_name: info.mtime_ns or 0 for info in infos if info.is_file}

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file as a whole: renamed into place locally, one put on object stores."""
        write = _rename_into_place if self.is_local else self._put
        self._write(name, lambda: write(self.path(name), data))

    def read_bytes(self, name: str) -> bytes:
        """All of a file.

        Raises:
            FileNotFoundError: not there.
        """

        def read() -> bytes:
            with self.fs.open_input_stream(self.path(name)) as stream:
                data: bytes = stream.read()
            return data

        return self._do(name, "read", read)

    def remove(self, name: str) -> None:
        """Delete a file; one that is gone already is no error."""
        with suppress(FileNotFoundError):
            self._do(name, "removed", lambda: self.fs.delete_file(self.path(name)))

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
            raise RunDirError(f"'{self.run_dir}/{name}' is damaged; {self._anew()}") from None

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
            return pq.read_table(pa.BufferReader(self.read_bytes(name)), columns=columns)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RunDirError(f"'{self.run_dir}/{name}' cannot be read: {reason}; {self._anew()}") from None

    def write_part(self, unit_id: str, table: pa.Table, statistics: dict[str, Any]) -> bool:
        """Commit a unit's records; afterwards the unit is done. The first commit stays.

        Args:
            unit_id: the unit.
            table: its records.
            statistics: what computing them took, kept beside them.

        Returns:
            Whether this part was written; False where a whole one was there already.
        """
        with suppress(ValueError):
            self.read_part(unit_id)
            log.info("unit %s was committed before; its first part stays", unit_id)
            return False
        metadata = {
            UNIT_KEY: unit_id.encode(),
            STATISTICS_KEY: json.dumps(statistics).encode(),
            DIGEST_KEY: table_digest(table).encode(),
        }
        self.write_table(_part_name(unit_id), table.replace_schema_metadata(metadata))
        return True

    def part_ids(self) -> set[str]:
        """Units that have a part, whole or damaged."""
        return {name.removesuffix(".parquet") for name in self.files("parts") if name.endswith(".parquet")}

    def read_part(self, unit_id: str, columns: list[str] | None = None) -> pa.Table:
        """A unit's records; all columns are verified against their digest when all are read.

        Raises:
            ValueError: the part is not there, truncated, corrupted, or another unit's.
        """
        try:
            data = self.read_bytes(_part_name(unit_id))
        except FileNotFoundError:
            raise ValueError(f"part {unit_id} is not there") from None
        try:
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            schema = file.schema_arrow
            table = file.read(columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"part {unit_id} cannot be read: {' '.join(str(error).split())}") from None
        found = (schema.metadata or {}).get(UNIT_KEY, b"").decode()
        if found != unit_id or not schema.equals(SCHEMA, check_metadata=False):
            raise ValueError(f"part {unit_id} holds the records of another unit or version")
        if columns is None and not holds(table, schema.metadata.get(DIGEST_KEY, b"").decode()):
            raise ValueError(f"part {unit_id} does not hold what was written")
        return table

    def read_parts(
        self, unit_ids: Collection[str], columns: list[str] | None = None
    ) -> Iterator[tuple[str, pa.Table | ValueError]]:
        """The records of many units in the order of their ids, a few read ahead; see `read_part`.

        Yields:
            Unit and table, or what is wrong with the part.
        """

        def read(unit_id: str) -> pa.Table | ValueError:
            try:
                return self.read_part(unit_id, columns)
            except ValueError as error:
                return error

        under_way: deque[tuple[str, Future[pa.Table | ValueError]]] = deque()
        waiting, told = iter(sorted(unit_ids)), time.monotonic()
        with ThreadPoolExecutor(READERS) as readers:
            for done in range(len(unit_ids)):
                for unit_id in islice(waiting, 2 * READERS - len(under_way)):
                    under_way.append((unit_id, readers.submit(read, unit_id)))
                if time.monotonic() - told > TELL_EVERY_S:
                    told = time.monotonic()
                    log.info("%s: %d of %d parts read", self.run_dir, done, len(unit_ids))
                unit_id, part = under_way.popleft()
                yield unit_id, part.result()

    def read_statistics(self, unit_id: str) -> dict[str, Any]:
        """What a committed unit took, from its part's footer.

        Raises:
            FileNotFoundError, OSError, ValueError: not there, or damaged.
        """

        def read_end() -> bytes:
            with self.fs.open_input_file(self.path(name)) as file:
                file.seek(max(0, file.size() - FOOTER_BYTES))
                data: bytes = file.read()
            return data

        name = _part_name(unit_id)
        metadata = pq.ParquetFile(pa.BufferReader(self._do(name, "read", read_end))).schema_arrow.metadata
        statistics: dict[str, Any] = json.loads(metadata[STATISTICS_KEY])
        return statistics

    def remove_part(self, unit_id: str) -> None:
        """Take a damaged part out of the way."""
        self.remove(_part_name(unit_id))

    def remove_leftovers(self) -> None:
        """Delete temporary files of writers that were killed; object stores have none."""
        if not self.is_local:
            return
        for folder in ((), ("parts",)):
            for name in self.files(*folder):
                if name.endswith(".tmp"):
                    self.remove("/".join((*folder, name)))

    @staticmethod
    def concatenate(tables: Sequence[pa.Table], columns: Sequence[str] | None = None) -> pa.Table:
        """Parts as one table; the schema's empty one when there are none."""
        if not tables:
            schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(c) for c in columns])
            return schema.empty_table()
        return pa.concat_tables([table.replace_schema_metadata(None) for table in tables])

    def _do(self, name: str, verb: str, action: Callable[[], T]) -> T:
        return patiently(f"{self.run_dir}/{name}" if name else self.run_dir, verb, action, self._patience)

    def _write(self, name: str, action: Callable[[], None]) -> None:
        try:
            self._do(name, "written", action)
        except FileNotFoundError:
            raise RunDirError(
                f"'{self.run_dir}/{name}' cannot be written: its folder is not there on this machine; "
                "set out=... to a folder or storage that every node sees"
            ) from None

    def _put(self, target: str, data: bytes) -> None:
        with self.fs.open_output_stream(target) as stream:
            stream.write(data)

    def _anew(self) -> str:
        return "start anew with --fresh" if self.is_local else "start anew under another name=..."


def _part_name(unit_id: str) -> str:
    return f"parts/{unit_id}.parquet"


def _rename_into_place(target: str, data: bytes) -> None:
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


def _open(uri: str) -> tuple[fs.FileSystem, str]:
    if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in uri:
        uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={GCS_SECONDS}"
    opened, root = fs.FileSystem.from_uri(uri)
    if opened.type_name == "s3":
        # A URI cannot ask for this: files of up to 10 MiB as one put instead of three requests.
        rebuild, (settings,) = opened.__reduce__()
        tries = fs.AwsStandardS3RetryStrategy(max_attempts=S3_TRIES)
        opened = rebuild({**settings, "allow_delayed_open": True, "retry_strategy": tries})
    return opened, root
