"""The figures of a run directory, from its records; while the run goes on, of what is committed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pandas as pd

from harness import prompt_examples
from harness.analysis import answers
from harness.analysis.cells import COLUMNS, figures_of_cell
from harness.errors import RunDirError, UserError
from harness.results import manifest as manifests
from harness.results.records import records_by_cell
from harness.results.store import RunStore
from harness.task import find_task


def summarise(run_dir: str, unit_ids: Collection[str] | None = None) -> pd.DataFrame:
    """The cells of a run directory, or of some of its units, from its parts, in grid order."""
    store = RunStore(run_dir)
    if not store.exists(manifests.NAME):
        raise RunDirError(f"'{run_dir}' is not a run directory (no manifest.json); expected the folder of a run")
    manifest = store.read_json(manifests.NAME)
    if manifest.get("answer_metrics"):
        clusters = sample_clusters(store)
        records = records_by_cell(run_dir, answers.COLUMNS, unit_ids)
        rows = [answers.answers_of_cell(cell, manifest["answer_metrics"], clusters) for cell in records]
    else:
        metrics = find_task(manifest["config"]["task"]["name"]).metrics
        records = records_by_cell(run_dir, COLUMNS, unit_ids)
        rows = [figures_of_cell(cell, len(manifest["class_names"]), metrics) for cell in records]
    return order_cells(pd.DataFrame(rows), manifest["config"])


def table_notes(run_dir: str) -> list[str]:
    """What a reader of a run's table should know of its labels."""
    store = RunStore(run_dir)
    if store.read_json(manifests.NAME).get("method") != "likelihood" or not store.exists(prompt_examples.NAME):
        return []
    try:
        return prompt_examples.label_notes(store.read_json(prompt_examples.NAME))
    except (UserError, ValueError, LookupError, TypeError):
        return [f"- {prompt_examples.NAME} of '{run_dir}' is damaged: how many tokens labels have is not known"]


def sample_clusters(store: RunStore) -> dict[str, str]:
    """Sample id to cluster; an empty text where samples are independent."""
    table = store.read_table("samples.parquet", ["sample_id", "cluster"])
    return dict(zip(table["sample_id"].to_pylist(), table["cluster"].to_pylist(), strict=True))


def order_cells(cells: pd.DataFrame, config: dict[str, Any]) -> pd.DataFrame:
    """Cells in the order of the grid: model, template, K, seed as the configuration names them."""
    if cells.empty:
        return cells
    paths, grid = config["model"]["path"], config["grid"]
    axes = {
        "model": paths if isinstance(paths, list) else [paths],
        "template": grid["templates"],
        "k": grid["k"],
        "seed": grid["seeds"],
    }
    ranks = {name: cells[name].map({value: i for i, value in enumerate(axis)}) for name, axis in axes.items()}
    order = pd.DataFrame(ranks).sort_values(list(ranks), kind="stable").index
    return cells.loc[order].reset_index(drop=True)
