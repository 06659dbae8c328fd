"""The `calibrate` verb: what re-weighting the labels would have made of a finished run.

Knows where label log-probabilities lie; refuses to know how anything is printed or estimated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis import calibration as calibrations
from harness.analysis.calibrated import (
    KEYS,
    CellKey,
    cell_arrays,
    corrected_scores,
    one_seed_of_k0,
    refuse_choices,
    stored_content_free,
)
from harness.analysis.cells import of_prompts
from harness.analysis.compared_runs import read_manifest
from harness.analysis.intervals import LEVEL, mean_interval, paired_interval
from harness.analysis.summary import sample_clusters
from harness.analysis.table import FloatArray, IntArray, cluster_codes
from harness.core.errors import ConfigError, RunDirError
from harness.results.records import load_records
from harness.results.store import RunStore


@dataclass(frozen=True)
class Calibration:
    """Accuracy before and after re-weighting stored label log-probabilities."""

    cells: pd.DataFrame
    """Per cell and method: `before`, `after`, `difference` with `low` and `high`, `n`; for the
    ensemble `before` is the mean over its templates."""
    overall: pd.DataFrame
    """The same per method, averaged over its cells."""
    notes: tuple[str, ...]


def calibrate(run_dir: str, level: float = LEVEL) -> Calibration:
    """What calibration would have made of a run, from its stored label log-probabilities.

    Contextual calibration and PMI_DC need what the run has scored after content-free inputs.

    Args:
        run_dir: a run directory of a classification task.
        level: of the intervals.

    Raises:
        RunDirError: not a run directory, or no records yet.
        ConfigError: a task whose answers are generated, or whose samples bring choices.
    """
    manifest = read_manifest(run_dir)
    if manifest.get("answer_metrics"):
        raise ConfigError(f"'{run_dir}' holds generated answers; calibration needs label log-probabilities")
    refuse_choices(run_dir, manifest)
    records = load_records(run_dir, [*KEYS, "gold", "prediction", "label_logprobs"])
    if records.empty:
        raise RunDirError(
            f"'{run_dir}' has no records yet, or none that can be read; run or resume it with `harness run`"
        )
    if of_prompts(records)["label_logprobs"].isna().all():
        raise ConfigError(
            f"'{run_dir}' has no label log-probabilities (labels were generated, or all samples failed); "
            "expected a run with scoring.method=likelihood"
        )
    records = one_seed_of_k0(of_prompts(records))
    ids = records["sample_id"].drop_duplicates().tolist()
    golds = records.drop_duplicates("sample_id").set_index("sample_id")["gold"].loc[ids].to_numpy(dtype=np.int64)
    codes = cluster_codes(ids, sample_clusters(RunStore(run_dir)))
    logprobs, before = cell_arrays(records, ids)
    content_free, domain = stored_content_free(run_dir)
    found: list[tuple[dict[str, Any], FloatArray, FloatArray]] = []
    for key, scores in logprobs.items():
        methods = corrected_scores(key, scores, content_free, domain)
        names = dict(zip(("model", "template", "k", "seed"), key, strict=True))
        for method, calibrated in methods.items():
            found.append((names | {"method": method}, before[key], calibrations.correct(calibrated, golds)))
    found += _ensembles(logprobs, before, golds)
    cells = pd.DataFrame([names | _before_after(old, new, codes, level) for names, old, new in found])
    overall = []
    for method in cells["method"].unique():
        rows = [(old, new) for names, old, new in found if names["method"] == method]
        old, new = (np.mean([row[i] for row in rows], axis=0) for i in (0, 1))
        overall.append({"method": method, "n_cells": len(rows)} | _before_after(old, new, codes, level))
    notes = (
        "batch calibration is transductive: it uses the other test samples (not their labels), so a single "
        "sample cannot be judged this way, and the classes should be about equally frequent",
        "intervals take the correction itself as given, and are for one row at a time",
    )
    return Calibration(cells, pd.DataFrame(overall), notes)


def _ensembles(
    logprobs: Mapping[CellKey, FloatArray], before: Mapping[CellKey, FloatArray], golds: IntArray
) -> list[tuple[dict[str, Any], FloatArray, FloatArray]]:
    groups: dict[tuple[str, int, int], list[CellKey]] = {}
    for key in logprobs:
        groups.setdefault((key[0], *key[2:]), []).append(key)
    found = []
    for (model, k, seed), keys in groups.items():
        if len(keys) > 1:
            scores = calibrations.ensembled(np.stack([logprobs[key] for key in keys]))
            names = {"model": model, "template": f"mean of {len(keys)}", "k": k, "seed": seed, "method": "ensemble"}
            old = np.mean([before[key] for key in keys], axis=0)
            found.append((names, old, calibrations.correct(scores, golds)))
    return found


def _before_after(old: FloatArray, new: FloatArray, clusters: IntArray | None, level: float) -> dict[str, Any]:
    kept = np.isfinite(old) & np.isfinite(new)
    codes = None if clusters is None else clusters[kept]
    change = paired_interval(new[kept] - old[kept], codes, level)
    after = mean_interval(new[kept], codes, level)
    return {
        "n": change.n,
        "n_attempted": len(old),
        "before": after.value - change.value,
        "after": after.value,
        "after_low": after.low,
        "after_high": after.high,
        "difference": change.value,
        "low": change.low,
        "high": change.high,
        "interval": change.method,
    }
