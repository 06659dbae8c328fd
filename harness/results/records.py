"""Reading runs back, with pandas."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from harness.errors import RunDirError
from harness.results.store import RunStore

log = logging.getLogger(__name__)
ORDER = ["model", "task", "template", "k", "seed", "sample_id"]
NULLABLE = ("prediction", "greedy_prediction", "argmax_token", "n_prompt_tokens", "n_generated_tokens")


def load_records(
    run_dir: str, columns: Sequence[str] | None = None, unit_ids: Collection[str] | None = None
) -> pd.DataFrame:
    """All committed records of a run, one row per (cell, sample).

    Args:
        run_dir: a run directory, local or a storage URI; the run may still be going on.
        unit_ids: the units to read; None reads all that are committed, without those over
            content-free inputs (`scoring.calibration`).
        columns: the columns to read; None reads all of `harness.results.schema.SCHEMA`.

    Returns:
        Rows sorted by model, task, template, K, seed and sample id (as far as those columns are
        read). `label_logprobs` are nats, in label order; `prediction` is null and `error` is
        text where a sample failed. Generated answers have a column per metric, NaN where they
        failed.

    Raises:
        RunDirError: not a run directory.
    """
    store = RunStore(run_dir)
    if not store.exists("manifest.json"):
        raise RunDirError(f"'{run_dir}' is not a run directory (no manifest.json); expected the folder of a run")
    manifest = store.read_json("manifest.json")
    if unit_ids is None:
        unit_ids = store.part_ids() - set(manifest.get("calibration_units", ()))
    good = []
    for unit_id in sorted(unit_ids):
        try:
            good.append(store.read_part(unit_id, list(columns) if columns is not None else None))
        except ValueError as error:
            log.warning("%s; `harness run` computes it again", error)
    table = RunStore.concatenate(good, columns)
    frame: pd.DataFrame = table.to_pandas()
    for name in NULLABLE:
        if name in frame:
            frame[name] = frame[name].astype("Int32")
    metrics = manifest.get("answer_metrics", [])
    if metrics and "answer_values" in frame:
        failed = [math.nan] * len(metrics)
        rows = [failed if row is None else row for row in frame["answer_values"]]
        values = np.asarray(rows, dtype=float).reshape(len(frame), len(metrics))
        for place, name in enumerate(metrics):
            frame[name] = values[:, place]
    keys = [key for key in ORDER if key in frame]
    return frame.sort_values(keys, kind="stable", ignore_index=True) if keys else frame
