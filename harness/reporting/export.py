"""The `export` verb: a run's generated answers, one file per cell.

Knows cells and how their files are named; the formats are the task's. Reading a run imports no module that it
names: a task that is not registered has the common format.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis.cells import KEYS
from harness.core.errors import ConfigError, RunDirError, did_you_mean
from harness.core.hashing import content_hash
from harness.core.task import JSON_EXPORT, registered_task
from harness.results.files import RunFiles
from harness.results.manifest import read_manifest
from harness.results.records import load_records
from harness.results.store import RunStore

MOST_BYTES = 200
"""Of a file name, before what tells equal ones apart."""


def export_answers(run_dir: str, to: Path | None, fmt: str | None = None) -> Sequence[Path]:
    """Write one prediction file per cell.

    A failed sample is left out; official scripts count it as wrong.

    Args:
        run_dir: a run of a task whose answers are generated.
        to: folder for the files; `predictions` in the run directory by default.
        fmt: a format of the run's task; its first by default.

    Raises:
        ConfigError: the task has no such format.
        RunDirError: no run, no answers, or the folder cannot be written.
    """
    task = registered_task(read_manifest(RunStore(run_dir), "config")["config"]["task"]["name"])
    formats = task.exports if task else JSON_EXPORT
    chosen = next(iter(formats)) if fmt is None else fmt
    if chosen not in formats:
        raise ConfigError(f"no format '{chosen}'{did_you_mean(chosen, formats)}")
    written = formats[chosen]
    records = load_records(run_dir)
    answered = records[records["answer"].notna()]
    if answered.empty:
        raise RunDirError(
            f"'{run_dir}' holds no generated answers to export; expected a run of a task such as korquad1"
        )
    if to is None and "://" in run_dir:
        raise RunDirError(f"'{run_dir}' is not a local folder; name one for the files with --to DIR")
    folder = to or Path(run_dir) / "predictions"
    cells = answered.groupby(KEYS, sort=False, observed=True, dropna=False)
    names = [f"{stem}{written.suffix}" for stem in file_stems([key for key, _ in cells])]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirError(f"'{folder}' cannot be written: {error}; name another folder with --to DIR") from None
    files = RunFiles(str(folder))
    for name, (_, cell) in zip(names, cells, strict=True):
        answers = dict(zip(cell["sample_id"], cell["answer"], strict=True))
        # Into its place as a whole: a link that somebody put there is replaced, not followed.
        files.write_bytes(name, written.text(answers).encode())
    return [folder / name for name in names]


def file_stems(keys: Sequence[tuple[Any, ...]]) -> list[str]:
    """A file's name per cell, all different in every file system; models of one folder name are numbered.

    Args:
        keys: of the cells: model, task, template, K and seed.
    """
    models = list(dict.fromkeys(str(key[0]) for key in keys))
    short = [Path(model).name for model in models]
    unique = len(set(short)) == len(short)
    named = {
        model: name if unique else f"{name}.{i}" for i, (model, name) in enumerate(zip(models, short, strict=True))
    }
    stems = [_stem("-".join([str(task), named[str(model)], *_strategy(names)])) for model, task, *names in keys]
    counts = Counter(stem.casefold() for stem in stems)
    # Names that differ in signs alone would overwrite each other.
    return [
        f"{stem}{f'-{content_hash([str(part) for part in key])[:8]}' if counts[stem.casefold()] > 1 else ''}"
        for stem, key in zip(stems, keys, strict=True)
    ]


def _strategy(names: Sequence[Any]) -> list[str]:
    """Template, K and seed, as far as a cell has them."""
    marks = ("", "k", "seed")
    return [f"{mark}{name}" for mark, name in zip(marks, names, strict=True) if not pd.isna(name)]


def _stem(text: str) -> str:
    stem = unicodedata.normalize("NFC", re.sub(r"[^\w.-]+", "_", text)).lstrip(".-")
    if len(stem.encode()) <= MOST_BYTES:
        return stem
    return f"{stem.encode()[: MOST_BYTES - 9].decode(errors='ignore')}-{content_hash(text)[:8]}"
