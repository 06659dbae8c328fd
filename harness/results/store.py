"""What a run directory holds: JSON documents, tables, parts.

Knows their formats and when one is damaged; refuses to know where files lie and how they are written (`files`).
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import RunDirError
from harness.core.escaping import one_line
from harness.results import layout, parts
from harness.results.files import RunFiles
from harness.results.schema import SCHEMA

log = logging.getLogger(__name__)
FOOTER_BYTES = 2**18
"""More than a part's footer takes: 23 columns of one row group, their least and greatest values cut at 4 KiB."""
READERS = 8
"""Parts read at a time: object stores answer slowly, but many at once."""
TELL_EVERY_S = 5.0


class RunStore(RunFiles):
    """Reads and writes one run directory: JSON documents, tables, and parts, which are the records of a unit each.

    Built and failing as `RunFiles`.
    """

    def write_json(self, name: str, value: Any, durable: bool = True) -> None:
        """A JSON document, readable by people; see `write_bytes`."""
        self.write_bytes(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(), durable)

    def read_json(self, name: str) -> Any:
        """A JSON document of the run directory.

        Raises:
            RunDirError: not there, not JSON, or of a format that there is not.
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
        if fault := layout.keys({}, {"format": layout.whole(1)})(document, "it") if isinstance(document, dict) else "":
            raise RunDirError(f"'{self.run_dir}/{name}' is damaged: {fault.replace('it.', '', 1)}; {self.anew()}")
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
        self, unit_id: str, table: pa.Table, statistics: dict[str, Any], keys: Mapping[int | None, str] | None = None
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
        return parts.statistics_of(self.read_end(_part_name(unit_id), FOOTER_BYTES))

    def remove_part(self, unit_id: str) -> None:
        """Take a damaged part out of the way."""
        self.remove(_part_name(unit_id))

    @staticmethod
    def concatenate(tables: Sequence[pa.Table], columns: Sequence[str] | None = None) -> pa.Table:
        """Parts as one table; the schema's empty one when there are none."""
        if not tables:
            schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(c) for c in columns])
            return schema.empty_table()
        return pa.concat_tables([table.replace_schema_metadata(None) for table in tables])


def _part_name(unit_id: str) -> str:
    return f"parts/{unit_id}.parquet"
