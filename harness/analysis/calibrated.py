"""Label scores of a finished run, corrected for what a prompt prefers by itself, and the predictions they make.

Knows where label log-probabilities lie; refuses to know how anything is compared or printed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis import calibration as calibrations
from harness.analysis.cells import of_prompts
from harness.analysis.table import FloatArray
from harness.core.errors import ConfigError, did_you_mean
from harness.core.task import CONTENT_FREE
from harness.results import manifest as manifests
from harness.results.records import load_records
from harness.results.store import RunStore

CellKey = tuple[str, str, int, int]
"""(model, template, K, seed)"""
KEYS = ["model", "task", "template", "k", "seed", "sample_id"]
METHODS = {"batch": "", "contextual": "contextual", "PMI_DC": "domain"}
"""Corrections of single cells, and the entry of `scoring.calibration` that each needs."""


def stored_content_free(run_dir: str) -> tuple[dict[CellKey, FloatArray], dict[CellKey, FloatArray]]:
    """What the run scored for its calibration arms (`scoring.calibration`).

    Returns:
        Per cell the label log-probabilities after all content-free inputs, (inputs, labels), where
        there are several; and those after the empty input, (labels,).
    """
    store = RunStore(run_dir)
    units = set(manifests.read_manifest(store).get("calibration_units", ())) & store.part_ids()
    if not units:
        return {}, {}
    records = load_records(run_dir, [*KEYS, "label_logprobs"], units).dropna(subset="label_logprobs")
    several: dict[CellKey, FloatArray] = {}
    empty: dict[CellKey, FloatArray] = {}
    for _, cell in records.groupby(["model", "template", "k", "seed"], sort=False):
        first = cell.iloc[0]
        key = (str(first["model"]), str(first["template"]), int(first["k"]), int(first["seed"]))
        if len(cell) > 1:
            several[key] = np.stack(cell["label_logprobs"].tolist())
        for scores in cell.loc[cell["sample_id"] == CONTENT_FREE, "label_logprobs"]:
            empty[key] = np.asarray(scores, dtype=float)
    return several, empty


def cell_arrays(
    records: pd.DataFrame, ids: Sequence[str]
) -> tuple[dict[CellKey, FloatArray], dict[CellKey, FloatArray]]:
    """Per cell the log-probabilities (samples, labels) and right or wrong (samples,), NaN when failed.

    Args:
        records: with `KEYS`, `gold`, `prediction` and `label_logprobs`.
        ids: of the samples, in the order of the arrays.
    """
    place = {sample_id: i for i, sample_id in enumerate(ids)}
    n_labels = len(records["label_logprobs"].dropna().iloc[0])
    logprobs: dict[CellKey, FloatArray] = {}
    before: dict[CellKey, FloatArray] = {}
    for _, cell in records.groupby(["model", "template", "k", "seed"], sort=False):
        first = cell.iloc[0]
        key = (str(first["model"]), str(first["template"]), int(first["k"]), int(first["seed"]))
        scored = cell[cell["label_logprobs"].notna() & cell["prediction"].notna()]
        rows = scored["sample_id"].map(place).to_numpy(dtype=np.int64)
        logprobs[key] = np.full((len(ids), n_labels), np.nan)
        before[key] = np.full(len(ids), np.nan)
        if len(rows):
            logprobs[key][rows] = np.stack(scored["label_logprobs"].tolist())
            before[key][rows] = (scored["prediction"] == scored["gold"]).to_numpy(dtype=float)
    return logprobs, before


def refuse_choices(run_dir: str, manifest: Mapping[str, Any]) -> None:
    """Refuse a run whose labels are not the same throughout, so that they have no weights of their own.

    Raises:
        ConfigError: saying where its scores are.
    """
    if manifest.get("choices"):
        raise ConfigError(
            f"'{run_dir}' has other choices for each sample, so that no label can be re-weighted over all; `harness "
            "show` has its accuracy by each score, by PMI too where the run has scoring.calibration=[domain]"
        )


def one_seed_of_k0(records: pd.DataFrame) -> pd.DataFrame:
    """The records with K = 0 under its first seed only: its copies under the others say nothing more."""
    first = records.groupby(["model", "template", "k"])["seed"].transform("min")
    return records[(records["k"] > 0) | (records["seed"] == first)]


def corrected_scores(
    key: CellKey, scores: FloatArray, content_free: dict[CellKey, FloatArray], domain: dict[CellKey, FloatArray]
) -> dict[str, FloatArray]:
    """Method to corrected scores of one cell, (samples, labels): those of `METHODS` that the run has scored for."""
    found = {"batch": calibrations.batch_calibrated(scores)}
    if key in content_free:
        found["contextual"] = calibrations.contextually_calibrated(scores, content_free[key])
    if key in domain:
        found["PMI_DC"] = calibrations.domain_conditional(scores, domain[key])
    return found


def calibrated_records(run_dir: str, methods: Sequence[str]) -> pd.DataFrame:
    """What corrected scores predict, as records of further strategies.

    Args:
        run_dir: of a classification task whose labels were compared.
        methods: of `METHODS`.

    Returns:
        `KEYS`, `gold`, `prediction` (null where scoring failed) and `calibration`, the method.

    Raises:
        ConfigError: an unknown method, or one that the run has not scored for.
    """
    for method in methods:
        if method not in METHODS:
            raise ConfigError(f"no calibration '{method}'{did_you_mean(method, list(METHODS))}")
    refuse_choices(run_dir, manifests.read_manifest(RunStore(run_dir)))
    records = load_records(run_dir, [*KEYS, "gold", "prediction", "label_logprobs"])
    records = one_seed_of_k0(of_prompts(records))
    if records.empty or records["label_logprobs"].isna().all():
        raise ConfigError(f"'{run_dir}' has no label log-probabilities to calibrate (labels or answers were generated)")
    ids = records["sample_id"].drop_duplicates().tolist()
    logprobs, _ = cell_arrays(records, ids)
    stored = stored_content_free(run_dir)
    frames = []
    for _, cell in records.groupby(["model", "template", "k", "seed"], sort=False):
        first = cell.iloc[0]
        key = (str(first["model"]), str(first["template"]), int(first["k"]), int(first["seed"]))
        rows = cell["sample_id"].map({sample_id: place for place, sample_id in enumerate(ids)})
        found = corrected_scores(key, logprobs[key], *stored)
        for method in methods:
            if method not in found:
                raise ConfigError(
                    f"'{run_dir}' has no scores for {method} calibration; run it with "
                    f"scoring.calibration=[{METHODS[method]}]"
                )
            chosen = calibrations.decide(found[method])[rows.to_numpy(dtype=np.int64)]
            prediction = pd.array(chosen, dtype="Int32")
            prediction[chosen < 0] = pd.NA
            frames.append(cell[[*KEYS, "gold"]].assign(prediction=prediction, calibration=method))
    return pd.concat(frames, ignore_index=True)
