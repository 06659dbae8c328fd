"""NSMC, the Naver sentiment movie corpus: is a review negative or positive?

Files in NSMC's official format: `ratings_train.txt` (demonstrations) and `ratings_test.txt`,
UTF-8, header `id<TAB>document<TAB>label`, no quoting. Source: github.com/e9t/nsmc (CC0).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from harness.errors import DataError
from harness.task import Sample, Task, TaskData

if TYPE_CHECKING:
    from harness.config import TaskConfig

TRAIN, TEST = "ratings_train.txt", "ratings_test.txt"
COLUMNS = ["id", "document", "label"]
_NOT_KOREAN = re.compile(r"[^가-힣ㄱ-ㅎㅏ-ㅣ\s]")


def clean_text(document: str) -> str:
    """The lecture's cleaning: only Hangul, compatibility jamo and white space stay.

    It empties documents such as `1/10`; they remain in the evaluation.
    """
    return _NOT_KOREAN.sub("", document)


def read_ratings(path: Path) -> tuple[pd.DataFrame, int]:
    """One NSMC file as `id` (text), `document`, `label` (0 or 1), in file order.

    Rows without a document are dropped, as the lecture's `dropna` does.

    Returns:
        The rows and how many were dropped.

    Raises:
        DataError: missing file, wrong header, a label outside 0 and 1, not UTF-8.
    """
    if not path.is_file():
        raise DataError(f"no file '{path}'; expected NSMC's {path.name} (`harness data get nsmc` downloads it)")
    try:
        frame = pd.read_csv(path, header=0, delimiter="\t", quoting=3, dtype=str, encoding="utf-8")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"'{path}' is not tab-separated UTF-8 text: {' '.join(str(error).split())}") from None
    if list(frame.columns) != COLUMNS:
        raise DataError(f"'{path}' has the columns {list(frame.columns)}, expected {COLUMNS} separated by tabs")
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(f"'{path}' has rows of more than {len(COLUMNS)} cells, expected {COLUMNS} separated by tabs")
    kept = frame.dropna().reset_index()
    wrong = kept[~kept["label"].isin(["0", "1"])]
    if len(wrong):
        row = wrong.iloc[0]
        raise DataError(f"'{path}' line {row['index'] + 2}: label '{row['label']}', expected 0 or 1")
    repeated = kept["id"].duplicated()
    if repeated.any():
        row = kept[repeated].iloc[0]
        raise DataError(f"'{path}' line {row['index'] + 2}: the id {row['id']} comes twice, expected unique ids")
    if kept.empty:
        raise DataError(f"'{path}' has no reviews")
    return kept[COLUMNS].astype({"label": int}), len(frame) - len(kept)


def load(options: TaskConfig) -> TaskData:
    """Test samples (drawn when `limit` is set) and the demonstration pool."""
    folder = Path(options.data_dir)
    test, dropped_test = read_ratings(folder / TEST)
    train, dropped_train = read_ratings(folder / TRAIN)
    notes = [
        f"{name}: {len(frame):,} reviews, {dropped:,} without text dropped"
        for name, frame, dropped in ((TEST, test, dropped_test), (TRAIN, train, dropped_train))
    ]
    if options.limit is not None and options.limit < len(test):
        test = test.sample(options.limit, random_state=options.sample_seed)
    elif options.limit is not None:
        notes.append(f"task.limit={options.limit} takes all {len(test):,} reviews")
    clean = clean_text if options.clean_text else str
    return TaskData(
        samples=_samples(test, clean),
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
