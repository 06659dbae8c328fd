"""The `export` verb: a run's generated answers in the formats of official scoring scripts."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.analysis.cells import KEYS
from harness.core.errors import RunDirError
from harness.core.hashing import content_hash
from harness.results.records import load_records

FORMATS = ("korquad",)
MOST_BYTES = 200
"""Of a file name, before what tells equal ones apart."""


def export_answers(run_dir: str, to: Path | None) -> Sequence[Path]:
    """Write one prediction file per cell: a JSON object from question id to answer.

    The official KorQuAD scripts read these files. A failed sample is left out; the scripts
    count it as wrong.

    Args:
        run_dir: a run of a task whose answers are generated.
        to: folder for the files; `predictions` in the run directory by default.

    Raises:
        RunDirError: no run, no answers, or the folder cannot be written.
    """
    records = load_records(run_dir)
    answered = records[records["answer"].notna()]
    if answered.empty:
        raise RunDirError(
            f"'{run_dir}' holds no generated answers to export; expected a run of a task such as korquad1"
        )
    if to is None and "://" in run_dir:
        raise RunDirError(f"'{run_dir}' is not a local folder; name one for the files with --to DIR")
    folder = to or Path(run_dir) / "predictions"
    cells = answered.groupby(KEYS, sort=False, observed=True)
    names = _file_names([key for key, _ in cells])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (_, cell) in zip(names, cells, strict=True):
            answers = dict(zip(cell["sample_id"], cell["answer"], strict=True))
            (folder / name).write_text(json.dumps(answers, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunDirError(f"'{folder}' cannot be written: {error}; name another folder with --to DIR") from None
    return [folder / name for name in names]


def _file_names(keys: Sequence[tuple[Any, ...]]) -> list[str]:
    """One name per cell, all different in every file system; models of one folder name are numbered."""
    models = list(dict.fromkeys(str(key[0]) for key in keys))
    short = [Path(model).name for model in models]
    unique = len(set(short)) == len(short)
    named = {
        model: name if unique else f"{name}.{i}" for i, (model, name) in enumerate(zip(models, short, strict=True))
    }
    stems = [_stem(f"{task}-{named[str(model)]}-{template}-k{k}-seed{seed}") for model, task, template, k, seed in keys]
    counts = Counter(stem.casefold() for stem in stems)
    # Names that differ in signs alone would overwrite each other.
    return [
        f"{stem}{f'-{content_hash([str(part) for part in key])[:8]}' if counts[stem.casefold()] > 1 else ''}.json"
        for stem, key in zip(stems, keys, strict=True)
    ]


def _stem(text: str) -> str:
    stem = unicodedata.normalize("NFC", re.sub(r"[^\w.-]+", "_", text)).lstrip(".-")
    if len(stem.encode()) <= MOST_BYTES:
        return stem
    return f"{stem.encode()[: MOST_BYTES - 9].decode(errors='ignore')}-{content_hash(text)[:8]}"
