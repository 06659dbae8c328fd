"""The records of run directories over the same samples, as one table of a metric's values.

Knows where records, clusters and metric names lie; refuses to know strategies and estimates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from harness.analysis.calibrated import KEYS, calibrated_records
from harness.analysis.figures import FIGURES, figure_values
from harness.analysis.summary import sample_clusters
from harness.analysis.table import ACCURACY, ValueTable, value_table
from harness.core.errors import ConfigError, DataError, RunDirError, did_you_mean
from harness.core.hashing import content_hash
from harness.results import manifest as manifests
from harness.results.records import NAMES, load_records
from harness.results.samples import check_known, read_samples
from harness.results.store import RunStore

_WHERE_NONE = "labels that are compared have no answers, generated ones no scores, and failed samples nothing"


def read_manifest(run_dir: str, *entries: str) -> dict[str, Any]:
    """The manifest of a run directory, with its records' entries and these checked.

    Raises:
        RunDirError: not a run directory, or a damaged one.
    """
    return manifests.read_manifest(RunStore(run_dir), "config", "class_names", "n_samples", *entries)


def values_of_runs(run_dirs: Sequence[str], metric: str | None, calibrated: Sequence[str]) -> tuple[ValueTable, str]:
    """What each cell of the runs made of each sample.

    Args:
        run_dirs: run directories of one task over the same samples.
        metric: one of `known_metrics`; None: what the task is judged by.
        calibrated: of `calibrated.METHODS`; their predictions become cells besides those as scored.

    Returns:
        The table and the metric's name.

    Raises:
        RunDirError: not a run directory, or one without records.
        ConfigError: a metric that these runs have no values of.
        DataError: runs of different samples.
    """
    known = known_metrics(read_manifest(run_dirs[0]))
    name = known[0] if metric is None else metric
    if name not in known:
        raise ConfigError(f"no metric '{name}' of single samples in '{run_dirs[0]}'{did_you_mean(name, known)}")
    values = ["gold", "prediction"] if name == ACCURACY else ["answer_values"]
    if calibrated and name != ACCURACY:
        raise ConfigError(f"calibrated predictions are compared by {ACCURACY}, not by '{name}'")
    names = _run_names(run_dirs)
    frames: list[pd.DataFrame] = []
    clusters: dict[str, str] = {}
    asked: dict[str, tuple[str, str]] = {}
    for run_dir, run in zip(run_dirs, names, strict=True):
        manifest = read_manifest(run_dir)
        found = known_metrics(manifest)
        if name not in found:
            raise ConfigError(
                f"no metric '{name}' in '{run_dir}', which has {', '.join(found)}; compare runs of one task"
            )
        is_own = name in (manifest.get("answer_metrics") or [ACCURACY])
        columns = dict.fromkeys([*KEYS, "n_prompt_tokens", *(values if is_own else FIGURES[name].columns)])
        frame = load_records(run_dir, list(columns), categories=True)
        if frame.empty:
            raise RunDirError(
                f"'{run_dir}' has no records yet, or none that can be read; run or resume it with `harness run`"
            )
        if not is_own:
            frame = frame.assign(**{name: figure_values(frame, name)})
            if frame[name].isna().all():
                raise ConfigError(f"no record of '{run_dir}' has a value for '{name}'; {_WHERE_NONE}")
        if calibrated:
            plain = frame.assign(calibration="", **{column: frame[column].astype(object) for column in NAMES})
            frame = pd.concat([plain, calibrated_records(run_dir, calibrated)], ignore_index=True)
            frame = frame.assign(**{column: frame[column].astype("category") for column in NAMES})
        frames.append(frame.assign(run=run))
        own = sample_clusters(RunStore(run_dir))
        check_known(RunStore(run_dir), own, frame["sample_id"].cat.categories)
        clusters |= own
        if len(run_dirs) > 1:
            if asked and not asked.keys() & own.keys():
                raise DataError(
                    f"'{run_dir}' has no sample in common with the runs before it; compare runs over the same samples "
                    "(task.limit, task.sample_seed)"
                )
            _check_same_samples(asked, run_dir)
    for column in NAMES if len(frames) > 1 else ():
        known_names = sorted(set().union(*(frame[column].cat.categories for frame in frames)))
        for frame in frames:
            frame[column] = frame[column].cat.set_categories(known_names)
    return value_table(pd.concat(frames, ignore_index=True), name, clusters), name


def averaged_apart(run_dirs: Sequence[str]) -> list[str]:
    """What runs call by one name and mean otherwise, one line each: to average over these runs would mix them.

    Args:
        run_dirs: run directories of one task.
    """
    names = _run_names(run_dirs)
    found: dict[str, None] = {}
    first: dict[tuple[str, str], tuple[Any, str]] = {}
    for run_dir, run in zip(run_dirs, names, strict=True):
        identity = read_manifest(run_dir).get("identity") or {}
        for part, word in (("templates", "template"), ("models", "model")):
            for name, own in (identity.get(part) or {}).items():
                before, other = first.setdefault((word, name), (own, run))
                if before != own:
                    found[f"{word} '{name}' is another one in '{run}' than in '{other}', and both are averaged"] = None
        for part, word in (("demos", "demos"), ("pool", "the pool of demonstrations"), ("generation", "generation")):
            if identity.get(part) is None:
                continue
            before, other = first.setdefault(("", part), (identity[part], run))
            if before != identity[part]:
                found[f"{word} differs between '{run}' and '{other}', and both are averaged"] = None
    return [f"{line}; compare with --by run,..." for line in found]


def known_metrics(manifest: Mapping[str, Any]) -> list[str]:
    """What the strategies of a run can be compared by, what it is judged by first."""
    own = list(manifest.get("answer_metrics") or [ACCURACY])
    further = [name for name in FIGURES if name not in own]
    if manifest.get("answer_metrics"):
        further = [name for name in further if not {"prediction", "off_label_mass"} & set(FIGURES[name].columns)]
    elif len(manifest["class_names"]) != 2:
        further.remove("predicted_positive_share")
    return own + further


def _check_same_samples(asked: dict[str, tuple[str, str]], run_dir: str) -> None:
    """Refuse a run whose samples have other texts or answers than the same ids in a run before it.

    Args:
        asked: sample id to the hash of what was asked and the run directory; the run's are added.
        run_dir: the run.

    Raises:
        DataError: naming the sample.
    """
    for row in read_samples(RunStore(run_dir)).to_pylist():
        sample_id = row.pop("sample_id")
        found = content_hash(row), run_dir
        before = asked.setdefault(sample_id, found)
        if before[0] != found[0]:
            raise DataError(
                f"sample '{sample_id}' of '{run_dir}' has other texts, answers or another cluster than in "
                f"'{before[1]}'; compare runs over the same samples (data files, task.options.clean_text)"
            )


def _run_names(run_dirs: Sequence[str]) -> list[str]:
    """Empty for one run; else the folders' names, or the whole paths where names repeat."""
    if len(run_dirs) == 1:
        return [""]
    names = [PurePosixPath(run_dir.rstrip("/")).name for run_dir in run_dirs]
    return names if len(set(names)) == len(names) else [str(run_dir) for run_dir in run_dirs]
