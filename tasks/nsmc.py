"""NSMC, the Naver sentiment movie corpus: is a review negative or positive?

Files in NSMC's official format: `ratings_train.txt` (demonstrations) and `ratings_test.txt`,
UTF-8, header `id<TAB>document<TAB>label`, no quoting. Source: github.com/e9t/nsmc (CC0).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from harness.core.errors import DataError
from harness.core.escaping import one_line
from harness.core.hangul import compose_hangul
from harness.core.task import Sample, Task, TaskData
from harness.core.user_files import read_bytes

if TYPE_CHECKING:
    from harness.config.schema import TaskConfig

TRAIN, TEST = "ratings_train.txt", "ratings_test.txt"
COLUMNS = ["id", "document", "label"]
MOST_BYTES = 2**31
_NOT_KOREAN = re.compile(r"[^가-힣ㄱ-ㅎㅏ-ㅣ\s]")


def clean_text(document: str) -> str:
    """The lecture's cleaning: only Hangul, compatibility jamo and white space stay.

    It empties documents such as `1/10`; they remain in the evaluation.
    """
    return _NOT_KOREAN.sub("", document)


def read_ratings(path: Path) -> tuple[pd.DataFrame, int]:
    """One NSMC file as `id` (text), `document`, `label` (0 or 1), in file order.

    Rows without a document are dropped, as the lecture's `dropna` does. A document that spells a missing
    value (`NA`, `null`, `nan`) is a document.

    Returns:
        The rows and how many were dropped.

    Raises:
        DataError: missing file, wrong header, not UTF-8; a row of too many or too few cells, without id or
            label, with a label outside 0 and 1, or with an id that came before; names the line.
    """
    lines = _lines(path)
    header = lines[0].split("\t") if lines else []
    if header != COLUMNS:
        found = one_line(repr(header), 120)
        raise DataError(f"'{path}' has the columns {found}, expected {COLUMNS} separated by tabs")
    ids, documents, labels = [], [], []
    seen: dict[str, int] = {}
    dropped = 0
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        cells = line.split("\t")
        fault = _row_fault(cells, last=number == len(lines))
        if not fault and cells[0] in seen:
            fault = f"the id {one_line(cells[0], 40)} comes twice (first in line {seen[cells[0]]}), expected unique ids"
        if fault:
            raise DataError(f"'{path}' line {number}: {fault}")
        seen[cells[0]] = number
        if not cells[1]:
            dropped += 1
            continue
        ids.append(cells[0])
        documents.append(cells[1])
        labels.append(int(cells[2]))
    if not ids:
        raise DataError(f"'{path}' has no reviews; expected lines of {COLUMNS} after the header")
    return pd.DataFrame({"id": ids, "document": documents, "label": labels}), dropped


def _lines(path: Path) -> list[str]:
    """The lines of a file. A carriage return ends a line only where nothing else does, or before a line end."""
    expected = f"NSMC's {path.name} (`harness data get nsmc` downloads it)"
    data = read_bytes(path, "file", expected, DataError, MOST_BYTES)
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"'{path}' is not tab-separated UTF-8 text: byte {data[error.start]:#04x} in line {line}"
            f"{_encoding_hint(data)}"
        ) from None
    if not text:
        raise DataError(f"'{path}' is not tab-separated UTF-8 text: it is empty; expected {expected}")
    if "\n" not in text:
        text = text.replace("\r", "\n")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _encoding_hint(data: bytes) -> str:
    """What the bytes are instead of UTF-8, and what to do."""
    if data.startswith(b"\x1f\x8b"):
        return "; it is a gzip archive, unpack it"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "; it is UTF-16, save it as UTF-8"
    try:
        data.decode("cp949")
    except UnicodeDecodeError:
        return "; expected UTF-8, convert it or download it again"
    return "; it may be CP949, convert it: iconv -f CP949 -t UTF-8"


def _row_fault(cells: Sequence[str], last: bool) -> str:
    """What is wrong with a row; an empty text where nothing is."""
    if len(cells) != len(COLUMNS):
        if len(cells) > len(COLUMNS):
            hint = "is there a tab inside the review?"
        elif any('"' in cell for cell in cells):
            hint = "does a quoted review go over several lines? NSMC has one line a review and no quotes"
        else:
            hint = "is the file cut off?" if last else "expected one line a review"
        return f"{len(cells)} cells, expected {len(COLUMNS)} separated by tabs; {hint}"
    if not cells[0].strip():
        return "no id, expected one"
    if not cells[2].strip():
        return "no label, expected 0 or 1" + ("; is the file cut off?" if last else "")
    if cells[2] not in ("0", "1"):
        return f"label {one_line(repr(cells[2]), 40)}, expected 0 or 1"
    return ""


def load(options: TaskConfig) -> TaskData:
    """Test samples (drawn when `limit` is set) and the demonstration pool."""
    folder = Path(options.data_dir)
    test, dropped_test = read_ratings(folder / TEST)
    train, dropped_train = read_ratings(folder / TRAIN)
    notes = [
        f"{name}: {len(frame):,} reviews, {dropped:,} without text dropped"
        for name, frame, dropped in ((TEST, test, dropped_test), (TRAIN, train, dropped_train))
    ]
    for name, frame in ((TEST, test), (TRAIN, train)):
        composed = [compose_hangul(text) for text in frame["document"]]
        changed = sum(a != b for a, b in zip(composed, frame["document"], strict=True))
        if changed:
            frame["document"] = composed
            notes.append(f"{name}: the decomposed Hangul of {changed:,} reviews is composed (NFC)")
    if options.limit is not None and options.limit < len(test):
        test = test.sample(options.limit, random_state=options.sample_seed)
    elif options.limit is not None:
        notes.append(f"task.limit={options.limit} takes all {len(test):,} reviews")
    clean = clean_text if options.clean_text else str
    samples = _samples(test, clean)
    emptied = sum(not sample.fields["document"].strip() for sample in samples)
    if emptied:
        notes.append(f"{emptied:,} of the {len(samples):,} samples are without text after cleaning and stay")
    return TaskData(
        samples=samples,
        pool=_samples(train, clean),
        length_field="document",
        raw_pool_texts=train["document"].tolist(),
        notes=notes,
    )


def _samples(frame: pd.DataFrame, clean: Callable[[str], str]) -> list[Sample]:
    rows = zip(frame["id"], frame["document"], frame["label"], strict=True)
    return [Sample(str(i), {"document": clean(text)}, int(label)) for i, text, label in rows]


TASK = Task(
    name="nsmc",
    version="1",
    description="NSMC movie reviews: negative or positive",
    class_names=("negative", "positive"),
    templates=Path(__file__).parent / "templates" / "nsmc.yaml",
    expected_files=(TRAIN, TEST),
    load=load,
)
