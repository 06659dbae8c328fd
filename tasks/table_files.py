"""Tables as texts: CSV, TSV, JSON lines, JSON, parquet, xlsx and folders saved by Hugging Face `datasets`.

A cell's text is what the file holds: `NA`, `null`, `01` and `1.0` stay as they are, white space and line
ends within a cell too. A cell is None where the file says that nothing is there: null, NaN, an error of
Excel, or a key that a JSON object lacks. Knows files; refuses to know what a column means.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import DataError
from harness.core.escaping import one_line
from tasks.table_cells import Cell, Table, header_fault, text_of
from tasks.table_separated import decoded, read_separated

MOST_ROWS = 10_000_000
"""Of a parquet file, a few bytes of which may claim more."""
MOST_SHEET_ROWS, MOST_SHEET_BYTES = 2**20, 2**30
"""Of an xlsx file: rows that Excel allows, and bytes unpacked."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_table(path: Path, encoding: str) -> Table:
    """All rows of a file, or of all table files in a folder.

    Args:
        path: file or folder.
        encoding: of CSV, TSV and JSON files.

    Raises:
        DataError: nothing there, another format or encoding, a row that does not fit, other columns in
            another file; names file and line.
    """
    if path.is_dir():
        if (path / "dataset_info.json").is_file() or list(path.glob("*.arrow")):
            saved = _saved_dataset(path)
            saved.files = [path.name] * len(saved.rows)
            return saved
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in READERS)
        if not files:
            raise DataError(f"no table in '{path}'; expected files ending in {', '.join(READERS)}")
    else:
        files = [path]
    tables = [_read_file(file, encoding) for file in files]
    for file, table in zip(files[1:], tables[1:], strict=True):
        if set(table.columns) != set(tables[0].columns):
            odd = sorted(set(table.columns) ^ set(tables[0].columns))
            raise DataError(
                f"'{file}' and '{files[0]}' have different columns ({one_line(', '.join(odd), 120)} in one only); "
                "expected one table in several files: name one of them"
            )
    return Table(
        tables[0].columns,
        [row for table in tables for row in table.rows],
        [place for table in tables for place in table.places],
        [note for table in tables for note in table.notes],
        [file.name for file, table in zip(files, tables, strict=True) for _ in table.rows],
    )


def tables_in(folder: Path) -> list[Path]:
    """Files of tables in a folder, and splits of a saved data set, by name."""
    splits = [path for path in folder.iterdir() if (path / "dataset_info.json").is_file()]
    files = [path for path in folder.iterdir() if path.suffix.lower() in READERS and path.name != "dataset_dict.json"]
    return sorted([*splits, *files])


def _read_file(file: Path, encoding: str) -> Table:
    reader = READERS.get(file.suffix.lower())
    if not file.is_file():
        raise DataError(f"no file '{file}'; expected a table ({', '.join(READERS)})")
    if reader is None:
        raise DataError(f"'{file}' ends in '{file.suffix}'; expected a table: {', '.join(READERS)}")
    table = reader(file, encoding)
    if not table.rows:
        raise DataError(f"'{file}' has no rows; expected at least one")
    return table


def _json_lines(file: Path, encoding: str) -> Table:
    objects, places = [], []
    for number, line in enumerate(decoded(file, encoding).split("\n"), 1):
        if line.strip():
            objects.append(_json(line, f"'{file}' line {number}"))
            places.append(f"'{file}' line {number}")
    return _of_objects(objects, places)


def _json_array(file: Path, encoding: str) -> Table:
    found = _json(decoded(file, encoding), f"'{file}'")
    if isinstance(found, dict):
        lists = {name: value for name, value in found.items() if isinstance(value, list)}
        if len(lists) != 1:
            raise DataError(
                f"'{file}' holds an object with {len(lists)} lists, expected a list of rows, or an object with one list"
            )
        found = next(iter(lists.values()))
    if not isinstance(found, list):
        raise DataError(f"'{file}' holds a {type(found).__name__}, expected a list of rows")
    return _of_objects(found, [f"'{file}' row {number}" for number in range(1, len(found) + 1)])


def _json(text: str, place: str) -> Any:
    """Parsed, with numbers as they are written."""
    try:
        found = json.loads(text, parse_float=str, parse_int=str, parse_constant=_constant, object_pairs_hook=_pairs)
        if _HALF.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: an escape such as \\ud800 is half a character; expected whole ones") from None
    except (json.JSONDecodeError, RecursionError, ValueError) as error:
        raise DataError(f"{place}: no valid JSON, {one_line(str(error), 120)}; is the file cut off?") from None
    return found


def _constant(name: str) -> str | None:
    """Python writes what is missing as NaN, which no JSON has; infinities are texts."""
    return None if name == "NaN" else name


def _pairs(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice in one object")
    return found


def _of_objects(objects: Sequence[Any], places: Sequence[str]) -> Table:
    rows: list[dict[str, Cell]] = []
    columns: dict[str, None] = {}
    for value, place in zip(objects, places, strict=True):
        if not isinstance(value, Mapping):
            raise DataError(f"{place}: a {type(value).__name__}, expected an object with a key per column")
        cells = _flat(value, place)
        rows.append(dict(cells))
        if len(rows[-1]) != len(cells):
            raise DataError(f"{place}: {header_fault('', [name for name, _ in cells]).removeprefix(': ')}")
        columns |= dict.fromkeys(rows[-1])
    if columns:
        if fault := header_fault(places[0], list(columns)):
            raise DataError(fault)
        rows = [{name: row.get(name) for name in columns} for row in rows]
    return Table(list(columns), rows, list(places))


def _flat(value: Mapping[str, Any], place: str) -> list[tuple[str, Cell]]:
    try:
        return list(_flattened(value, ""))
    except RecursionError:
        raise DataError(f"{place}: it is nested too deeply; expected an object with a key per column") from None


def _flattened(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Cell]]:
    """Nested objects as columns `outer.inner`."""
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flattened(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, text_of(inner)


def _parquet(file: Path, encoding: str) -> Table:
    try:
        opened = pq.ParquetFile(file)
        if opened.metadata.num_rows > MOST_ROWS:
            raise DataError(f"'{file}' claims {opened.metadata.num_rows:,} rows, expected at most {MOST_ROWS:,}")
        found = opened.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"'{file}' is no parquet file: {one_line(str(error), 120)}") from None
    return _of_arrow(found, str(file), {})


def _of_arrow(found: pa.Table, place: str, names: Mapping[str, Sequence[str]]) -> Table:
    """Rows of an Arrow table.

    Args:
        found: the table.
        place: file or folder, for messages.
        names: of the classes of columns that hold class indices.
    """
    binary = [f.name for f in found.schema if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)]
    notes = [f"{Path(place).name}: columns of bytes are left out: {', '.join(binary)}"] if binary else []
    if fault := header_fault(f"'{place}'", found.column_names):
        raise DataError(fault)
    try:
        objects = found.drop_columns(binary).to_pylist()
    except (pa.ArrowException, ArithmeticError, ValueError) as error:
        raise DataError(f"'{place}' holds what is no text: {one_line(str(error), 120)}") from None
    for column, classes in names.items():
        for row in objects:
            if isinstance(row.get(column), int) and 0 <= row[column] < len(classes):
                row[column] = str(classes[row[column]])
    # pandas writes what is missing in a column of numbers as NaN.
    for row in objects:
        for name, value in row.items():
            if value != value:
                row[name] = None
    table = _of_objects(objects, [f"'{place}' row {number}" for number in range(1, len(objects) + 1)])
    table.notes += notes
    return table


def _saved_dataset(folder: Path) -> Table:
    files = sorted(folder.glob("*.arrow"))
    if not files:
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise DataError(
            f"'{folder}' holds no *.arrow file; expected one split of a saved data set, there are: {splits}"
        )
    tables = []
    for file in files:
        try:
            with pa.memory_map(str(file)) as source:
                tables.append(pa.ipc.open_stream(source).read_all())
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"'{file}' is no Arrow file of a saved data set: {one_line(str(error), 120)}") from None
    try:
        found = pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise DataError(f"the files of '{folder}' are of different tables: {one_line(str(error), 120)}") from None
    return _of_arrow(found, str(folder), _class_names(folder / "dataset_info.json"))


def _class_names(info: Path) -> dict[str, Sequence[str]]:
    """Names of the classes of each column that holds class indices, as `datasets` keeps them."""
    if not info.is_file():
        return {}
    try:
        found = json.loads(info.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"'{info}' is damaged: {one_line(str(error), 120)}; save the data set again") from None
    features = found.get("features") if isinstance(found, dict) else None
    if not isinstance(features, dict):
        return {}
    named = {name: spec.get("names") for name, spec in features.items() if isinstance(spec, dict)}
    return {name: names for name, names in named.items() if isinstance(names, list)}


def _sheet(file: Path, encoding: str) -> Table:
    try:
        import openpyxl  # type: ignore[import-untyped]
    except ImportError:
        raise DataError(
            f"'{file}' needs openpyxl; install it (pip install openpyxl), or save the sheet as CSV"
        ) from None
    try:
        with zipfile.ZipFile(file) as parts:
            size = sum(part.file_size for part in parts.infolist())
        if size > MOST_SHEET_BYTES:
            raise DataError(
                f"'{file}' unpacks to {size:,} bytes, expected at most {MOST_SHEET_BYTES:,}; save it as CSV"
            )
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        return _of_sheet(file, book.worksheets[0], len(book.worksheets))
    except DataError:
        raise
    except Exception as error:
        # Whatever a reader meets in somebody's XML.
        raise DataError(f"'{file}' is no xlsx file: {one_line(str(error), 120)}; save the sheet as CSV") from None


def _of_sheet(file: Path, sheet: Any, count: int) -> Table:
    """Rows of the first of so many sheets."""
    # What a file says of its own size may be all that Excel allows.
    sheet.reset_dimensions()
    table = Table([], [], [], [f"{file.name}: the first of {count} sheets, '{sheet.title}'"] if count > 1 else [])
    width = beside = 0
    for number, cells in enumerate(sheet.iter_rows(), 1):
        # A formula that failed (`#N/A`) left no value.
        row = [None if cell.data_type == "e" else cell.value for cell in cells]
        if number > MOST_SHEET_ROWS:
            raise DataError(f"'{file}' has more than {MOST_SHEET_ROWS:,} rows; save the sheet as CSV")
        if number == 1:
            width = max((n + 1 for n, cell in enumerate(row) if cell is not None), default=0)
            table.columns = [str(cell if cell is not None else "").strip() for cell in row[:width]]
            if fault := header_fault(f"'{file}' row 1", table.columns):
                raise DataError(fault)
            continue
        beside += any(cell is not None for cell in row[width:])
        if any(cell is not None for cell in row):
            padded = [*row, *[None] * (width - len(row))][:width]
            table.rows.append({name: text_of(cell) for name, cell in zip(table.columns, padded, strict=True)})
            table.places.append(f"'{file}' row {number}")
    if beside:
        table.notes.append(f"{file.name}: {beside:,} rows have cells beside the columns of the header, passed over")
    return table


READERS: Mapping[str, Callable[[Path, str], Table]] = {
    ".csv": read_separated,
    ".tsv": read_separated,
    ".txt": read_separated,
    ".jsonl": _json_lines,
    ".json": _json_array,
    ".parquet": _parquet,
    ".xlsx": _sheet,
}
"""By the ending of a file's name."""
