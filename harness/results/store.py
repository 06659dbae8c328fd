"""A run directory: manifest, samples, parts; on local disk or any `pyarrow.fs` storage.

Every write is atomic: a reader sees the whole file or none of it. Every operation has patience
with storage that fails for a while.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from harness.core.addresses import address_fault
from harness.core.errors import RunDirError
from harness.core.escaping import one_line
from harness.results import layout, parts
from harness.results.retrying import PATIENCE, Patience, patiently
from harness.results.schema import SCHEMA

log = logging.getLogger(__name__)
T = TypeVar("T")
FOOTER_BYTES = 2**18
"""More than a part's footer takes: 22 columns of one row group, their least and greatest values cut at 4 KiB."""
READERS = 8
"""Parts read at a time: object stores answer slowly, but many at once."""
TELL_EVERY_S = 5.0
_LEFTOVER = re.compile(r".+\.(json|parquet|html|writable)\.[0-9a-f]{8}\.tmp|\.writable\.[0-9a-f]{8}\.tmp")
"""What `_rename_into_place` leaves behind when it is killed."""
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
        if fault := address_fault(run_dir):
            raise RunDirError(f"the run directory {fault}")
        if "://" in run_dir:
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

    def write_bytes(self, name: str, data: bytes, durable: bool = True) -> None:
        """Write a file as a whole: renamed into place locally, one put on object stores.

        Args:
            name: of the file.
            data: all of it.
            durable: whether it is to outlive the machine, which takes milliseconds; else it outlives the process.
        """

        def write() -> None:
            if self.is_local:
                _rename_into_place(self.path(name), data, durable)
            else:
                self._put(self.path(name), data)

        self._write(name, write)

    def read_bytes(self, name: str) -> bytes:
        """All of a file.

        Raises:
            FileNotFoundError: not there.
        """

        def read() -> bytes:
            self._expect_file(name)
            with self.fs.open_input_stream(self.path(name)) as stream:
                data: bytes = stream.read()
            return data

        return self._do(name, "read", read)

    def remove(self, name: str) -> None:
        """Delete a file; one that is gone already is no error."""
        with suppress(FileNotFoundError):
            self._do(name, "removed", lambda: self.fs.delete_file(self.path(name)))

    def write_json(self, name: str, value: Any, durable: bool = True) -> None:
        """A JSON document, readable by people; see `write_bytes`."""
        self.write_bytes(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(), durable)

    def read_json(self, name: str) -> Any:
        """A JSON document of the run directory.

        Raises:
            RunDirError: not there, or not JSON.
        """
        try:
            document = json.loads(self.read_bytes(name))
        except FileNotFoundError:
            raise RunDirError(f"'{self.run_dir}' has no {name}; expected a run directory") from None
        except (ValueError, RecursionError):
            raise RunDirError(f"'{self.run_dir}/{name}' is damaged: it is no JSON; {self.anew()}") from None
        if layout.newer(document):
            raise RunDirError(
                f"'{self.run_dir}/{name}' has the format {document['format']}, expected {layout.FORMAT}: a newer "
                "version of this program wrote it; use that version"
            )
        return document

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
            file = parts.open_parquet(self.read_bytes(name))
            parts.check_format(f"'{self.run_dir}/{name}'", file.schema_arrow.metadata or {})
            return file.read(columns=columns)
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = one_line(str(error), 200)
            raise RunDirError(f"'{self.run_dir}/{name}' cannot be read: {reason}; {self.anew()}") from None

    def write_part(
        self, unit_id: str, table: pa.Table, statistics: dict[str, Any], keys: Mapping[int, str] | None = None
    ) -> bool:
        """Commit a unit's records; afterwards the unit is done. The first commit stays.

        Args:
            unit_id: the unit.
            table: its records.
            statistics: what computing them took, kept beside them.
            keys: K to what the records of its cell depend on, as a content hash; kept beside them.

        Returns:
            Whether this part was written; False where a whole one was there already.
        """
        with suppress(ValueError):
            self.read_part(unit_id)
            log.info("unit %s was committed before; its first part stays", unit_id)
            return False
        metadata = parts.metadata_of(unit_id, table, statistics, keys or {})
        self.write_table(_part_name(unit_id), table.replace_schema_metadata(metadata))
        return True

    def amend_part(self, unit_id: str, table: pa.Table, statistics: dict[str, Any]) -> bool:
        """Put records in the place of failed ones of a committed unit; all others stay as they are.

        The part is replaced as a whole, as it was written: a reader sees the old one or the new one.

        Args:
            unit_id: the unit.
            table: records of it that were computed again.
            statistics: what that took; added to the part's.

        Returns:
            Whether any record was put into its place.

        Raises:
            ValueError: the part is damaged, or not there.
        """
        before = self.read_part(unit_id)
        after = parts.amended(before, table)
        if after.equals(before):
            return False
        statistics = parts.added(parts.checked(self.read_statistics(unit_id)), statistics, after)
        metadata = parts.metadata_of(unit_id, after, statistics, parts.cells_of(before))
        self.write_table(_part_name(unit_id), after.replace_schema_metadata(metadata))
        return True

    def part_ids(self) -> set[str]:
        """Units that have a part, whole or damaged."""
        return {name.removesuffix(".parquet") for name in self.files("parts") if name.endswith(".parquet")}

    def read_part(self, unit_id: str, columns: list[str] | None = None, most_rows: int | None = None) -> pa.Table:
        """A unit's records; see `harness.results.parts.decode`.

        Raises:
            ValueError: the part is not there, or `decode` refuses it.
        """
        try:
            data = self.read_bytes(_part_name(unit_id))
        except FileNotFoundError:
            raise ValueError(f"part {unit_id} is not there") from None
        return parts.decode(data, unit_id, columns, most_rows)

    def read_parts(
        self, unit_ids: Collection[str], columns: list[str] | None = None, most_rows: int | None = None
    ) -> Iterator[tuple[str, pa.Table | ValueError]]:
        """The records of many units in the order of their ids, a few read ahead; see `read_part`.

        Yields:
            Unit and table, or what is wrong with the part.
        """

        def read(unit_id: str) -> pa.Table | ValueError:
            try:
                return self.read_part(unit_id, columns, most_rows)
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
            FileNotFoundError, OSError, ValueError, RunDirError: not there, or damaged.
        """

        def read_end() -> bytes:
            self._expect_file(name)
            with self.fs.open_input_file(self.path(name)) as file:
                file.seek(max(0, file.size() - FOOTER_BYTES))
                data: bytes = file.read()
            return data

        name = _part_name(unit_id)
        return parts.statistics_of(self._do(name, "read", read_end))

    def remove_part(self, unit_id: str) -> None:
        """Take a damaged part out of the way."""
        self.remove(_part_name(unit_id))

    def remove_leftovers(self) -> None:
        """Delete temporary files of writers that were killed, and no others; object stores have none."""
        if not self.is_local:
            return
        for folder in ((), ("parts",)):
            for name in self.files(*folder):
                if _LEFTOVER.fullmatch(name):
                    self.remove("/".join((*folder, name)))

    @staticmethod
    def concatenate(tables: Sequence[pa.Table], columns: Sequence[str] | None = None) -> pa.Table:
        """Parts as one table; the schema's empty one when there are none."""
        if not tables:
            schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(c) for c in columns])
            return schema.empty_table()
        return pa.concat_tables([table.replace_schema_metadata(None) for table in tables])

    def _expect_file(self, name: str) -> None:
        """Refuse what would never end or is no file: a device, a pipe, a folder in a file's place."""
        kind = self.fs.get_file_info(self.path(name)).type if self.is_local else fs.FileType.File
        if kind not in (fs.FileType.File, fs.FileType.NotFound):
            what = "a folder" if kind == fs.FileType.Directory else "no regular file"
            raise RunDirError(f"'{self.run_dir}/{name}' is {what}, expected a file; {self.anew()}")

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

    def anew(self) -> str:
        """What to do about a run directory that cannot be mended."""
        return "start anew with --fresh" if self.is_local else "start anew under another name=..."


def _part_name(unit_id: str) -> str:
    return f"parts/{unit_id}.parquet"


def _rename_into_place(target: str, data: bytes, durable: bool) -> None:
    temporary = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
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
