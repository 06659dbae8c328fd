"""The figures of a run directory, from its records; while the run goes on, of what is committed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from harness.analysis import answer_figures as answers
from harness.analysis.cautions import cautions
from harness.analysis.cells import COLUMNS, KEYS, figures_of_cell, frame_of_cells, reasoning_figures
from harness.analysis.choices import CHOICE_COLUMNS, choices_of_run
from harness.analysis.named_answers import ANSWER_METRICS, NamedAnswers
from harness.analysis.named_metrics import CLASS_METRICS, LABEL_COLUMNS, NamedMetrics
from harness.core.errors import ConfigError, RunDirError, UserError
from harness.core.foreign import blamed_on
from harness.core.task import KIND, registered_task
from harness.core.task_code import n_codes
from harness.planning import examples as prompt_examples
from harness.results import layout
from harness.results import manifest as manifests
from harness.results.records import records_by_cell
from harness.results.samples import read_samples
from harness.results.store import RunStore

log = logging.getLogger(__name__)
CELLS = "cells.parquet"
Metric = Callable[[Sequence[int], Sequence[int]], float]


def summarise(
    run_dir: str, unit_ids: Collection[str] | None = None, metrics: Mapping[str, Metric] | None = None
) -> pd.DataFrame:
    """The cells of a run directory, or of some of its units, from its parts, in grid order.

    Reading imports nothing that a run directory names: figures of a task that is not registered come from
    `cells.parquet`, where they are.

    Args:
        run_dir: a run directory.
        unit_ids: the units; None takes all.
        metrics: the task's further figures; None finds them by its registered name.

    Raises:
        RunDirError: not a run directory, or a damaged one.
    """
    store = RunStore(run_dir)
    manifest = manifests.read_manifest(store, "config", "class_names", "n_samples")
    if manifest.get("answer_metrics"):
        clusters = sample_clusters(store)
        named = _named_answers(store, manifest, clusters)
        records = records_by_cell(run_dir, [*answers.COLUMNS, "reasoning"], unit_ids)
        rows = [
            answers.answers_of_cell(cell, manifest["answer_metrics"], clusters)
            | reasoning_figures(cell)
            | answers.written_figures(cell)
            | named.figures(cell)
            for cell in records
        ]
        return order_cells(frame_of_cells(rows), manifest)
    known = _registered_metrics(manifest) if metrics is None else metrics
    task = manifest["config"]["task"]["name"]
    known = known and {name: _blamed(metric, f"task '{task}': its metric '{name}'") for name, metric in known.items()}
    further: list[Callable[[pd.DataFrame], dict[str, float]]] = []
    columns = dict.fromkeys(COLUMNS)
    if manifest.get("method") == "generate":
        further += [reasoning_figures, answers.written_figures]
        columns |= dict.fromkeys(["reasoning", "answer"])
    if (choices := choices_of_run(run_dir, manifest)) is not None:
        further.append(choices.figures)
        columns |= dict.fromkeys(CHOICE_COLUMNS)
    if names := metrics_asked_for(manifest):
        further.append(NamedMetrics(names, manifest["class_names"], sample_clusters(store)).figures)
        columns |= dict.fromkeys(LABEL_COLUMNS)
    rows = []
    for cell in records_by_cell(run_dir, list(columns), unit_ids):
        row = figures_of_cell(cell, len(manifest["class_names"]), known or {})
        for figures in further:
            row |= figures(cell)
        rows.append(row)
    cells = order_cells(frame_of_cells(rows), manifest)
    return _with_stored(cells, store, manifest) if known is None and len(cells) else cells


def metrics_asked_for(manifest: Mapping[str, Any]) -> list[str]:
    """The names in `scoring.metrics` of a run, as far as this version knows them."""
    names = manifest["config"].get("scoring", {}).get("metrics", [])
    return [name for name in names if name in (ANSWER_METRICS if manifest.get("answer_metrics") else CLASS_METRICS)]


def _named_answers(store: RunStore, manifest: Mapping[str, Any], clusters: Mapping[str, str]) -> NamedAnswers:
    names = metrics_asked_for(manifest)
    golds: dict[str, list[str]] = {}
    if names:
        table = read_samples(store, ["sample_id", "answers"])
        golds = dict(zip(table["sample_id"].to_pylist(), table["answers"].to_pylist(), strict=True))
    return NamedAnswers(names, golds, clusters, manifest["config"].get("scoring", {}).get("extract"))


def _blamed(metric: Metric, subject: str) -> Metric:
    """The metric, whose exceptions and results that are no numbers are the task's fault."""

    def figure(gold: Sequence[int], predicted: Sequence[int]) -> float:
        with blamed_on(subject, "mend the task and run the same command again: the records are kept", ConfigError):
            return float(metric(gold, predicted))

    return figure


def _registered_metrics(manifest: Mapping[str, Any]) -> Mapping[str, Metric] | None:
    """The further figures of the run's task; None where it is not registered but has some."""
    task = registered_task(manifest["config"]["task"]["name"])
    if task is not None:
        return task.metrics
    # Early manifests do not say whether there are any.
    return None if manifest.get("metrics", ["?"]) else {}


def _with_stored(cells: pd.DataFrame, store: RunStore, manifest: Mapping[str, Any]) -> pd.DataFrame:
    """The cells with the figures that the run stored, of a task that is not registered here."""
    names, task = manifest.get("metrics", []), manifest["config"]["task"]["name"]
    stored = pd.DataFrame()
    if names and store.exists(CELLS):
        try:
            stored = store.read_table(CELLS, [*KEYS, "n_scored", *names]).to_pandas()
        except RunDirError as error:
            log.warning("%s", error)
    if stored.empty or stored.duplicated(KEYS).any() or not all(map(is_numeric_dtype, stored[names].dtypes)):
        log.warning(
            "task '%s' is not registered, and reading a run imports no module that it names: figures of its own%s are "
            "not shown; install the task (entry point '%s') to see them",
            task, f" ({', '.join(names)})" if names else "", KIND.group,
        )  # fmt: skip
        return cells
    # Figures of other records than those that are there now would be wrong.
    return cells.merge(stored, on=[*KEYS, "n_scored"], how="left")


def table_notes(run_dir: str, cells: pd.DataFrame) -> list[str]:
    """What a reader of a run's table should know of its labels, and of prompts with which something is wrong.

    Args:
        run_dir: a run directory.
        cells: its figures, from `summarise`.
    """
    store = RunStore(run_dir)
    return [*_label_notes(store, run_dir), *_code_notes(store), *cautions(cells, _majority(store))]


def _code_notes(store: RunStore) -> list[str]:
    """That several versions of a user's task have judged."""
    try:
        sessions = manifests.read_manifest(store, "sessions")["sessions"]
    except UserError:
        return []
    count = n_codes(str(one["task_code"]) for one in sessions if one.get("task_code"))
    return [f"- records are judged by {count} versions of the task's code, which changed between sessions"] * (
        count > 1
    )


def _majority(store: RunStore) -> float:
    """Share of the most frequent class; NaN where samples have no classes in common, or cannot be read."""
    try:
        if store.read_json(manifests.NAME).get("choices"):
            return math.nan
        gold = read_samples(store, ["gold"])["gold"].to_numpy()
    except UserError:
        return math.nan
    known = gold[gold >= 0]
    return float(np.bincount(known).max() / len(gold)) if len(known) else math.nan


def _label_notes(store: RunStore, run_dir: str) -> list[str]:
    if store.read_json(manifests.NAME).get("method") != "likelihood" or not store.exists(prompt_examples.NAME):
        return []
    try:
        return prompt_examples.label_notes(store.read_json(prompt_examples.NAME))
    except (UserError, ValueError, LookupError, TypeError):
        return [f"- {prompt_examples.NAME} of '{run_dir}' is damaged: how many tokens labels have is not known"]


def sample_clusters(store: RunStore) -> dict[str, str]:
    """Sample id to cluster; an empty text where samples are independent."""
    table = read_samples(store, ["sample_id", "cluster"])
    return dict(zip(table["sample_id"].to_pylist(), table["cluster"].to_pylist(), strict=True))


def order_cells(cells: pd.DataFrame, manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Cells in the order of the grid: model, template, K, seed as the configuration names them; then references."""
    if cells.empty:
        return cells
    config = manifest["config"]
    grid = config["grid"]
    axes = {
        "model": [*layout.model_names(config), *layout.reference_names(manifest)],
        "template": grid["templates"],
        "k": grid["k"],
        "seed": grid["seeds"],
    }
    ranks = {name: cells[name].map({value: i for i, value in enumerate(axis)}) for name, axis in axes.items()}
    # What a reference was trained on is no axis of the grid.
    is_prompt = cells["template"].notna()
    ranks |= {name: ranks[name].where(is_prompt, cells[name].astype("Float64")) for name in ("k", "seed")}
    order = pd.DataFrame(ranks).sort_values(list(ranks), kind="stable").index
    return cells.loc[order].reset_index(drop=True)
