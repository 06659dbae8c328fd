"""Data sets of the Hugging Face hub as folders on this machine: `hf://owner/name`, or `hf://owner/name/part`.

Knows the `datasets` library, which is an extra; refuses to know what a table holds.
"""

from __future__ import annotations

import re
from pathlib import Path

from harness.core.errors import DataError
from harness.core.escaping import one_line
from harness.core.hashing import content_hash

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:/([\w.-]+))?/?")


def hub_folder(address: str) -> Path:
    """A folder with one saved split below it for each of the data set, written where `datasets` keeps its own.

    Args:
        address: `hf://owner/name`, and the part of a data set that has several.

    Raises:
        DataError: no such address, the library is missing, or the data set cannot be had.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise DataError(
            f"task.data_dir is '{one_line(address, 80)}', expected hf://owner/name, or hf://owner/name/part for a part "
            "of a data set"
        )
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"'{address}' needs the datasets library; install it with pip install 'prompt-grid-harness[hub]', or save "
            "the data set as parquet and name its folder"
        ) from None
    name, part = found.groups()
    try:
        splits = datasets.load_dataset(name, part)
    except Exception as error:
        # Whatever goes wrong in there, from the network to the data set's own files.
        raise DataError(
            f"'{address}' cannot be loaded: {type(error).__name__}: {one_line(str(error), 240)}; is the name right, "
            "and is there a network?"
        ) from error
    versions = {str(split): str(rows._fingerprint) for split, rows in splits.items()}
    kept = Path(datasets.config.HF_DATASETS_CACHE) / "prompt_grid_harness"
    folder = kept / f"{name}/{part or ''}-{content_hash(versions)}".replace("/", "--")
    if not (folder / "dataset_dict.json").is_file():
        splits.save_to_disk(folder)
    return folder
