"""All that a report says, read from run directories into plain arrays and frames.

Estimates come from `summarise`, `compare` and `calibrate`; nothing is estimated here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.calibrate import Calibration, calibrate
from harness.analysis.cells import is_zero_shot, main_figure, of_prompts
from harness.analysis.compare import Comparison, compare
from harness.analysis.compared_runs import read_manifest
from harness.analysis.intervals import LEVEL
from harness.analysis.strategies import THIS_DRAW, labels_of
from harness.analysis.summary import summarise
from harness.analysis.table import AXES
from harness.core.errors import ConfigError, RunDirError
from harness.planning import examples as prompt_examples
from harness.reporting.report.predictions import AnswerGrid, answer_grid
from harness.results import layout
from harness.results.parts import checked
from harness.results.store import RunStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """What the committed units of a run took."""

    n_prompts: int
    """Prompts that went through a model."""
    prompt_tokens: int
    """Their tokens, as one pass per prompt."""
    tokens_computed: int
    replica_seconds: float
    """Summed over replicas; it is not the time that passed."""
    wall_seconds: float | None
    """Start to end, summed over sessions; None while a session has no end."""


@dataclass(frozen=True)
class RunFacts:
    """One run directory."""

    name: str
    """As in the axis `run`; empty for a report on one run."""
    run_dir: str
    manifest: Mapping[str, Any]
    cells: pd.DataFrame
    """As `harness show` prints them."""
    cost: Cost
    training_seconds: Mapping[str, float]
    """Per classifier that the run trained, of its replicas."""
    calibration: Calibration | None
    """None where answers were generated."""
    prompts: Sequence[Mapping[str, Any]] | None
    """Entries of `prompts.json`; None where the run directory has none."""

    @property
    def n_planned(self) -> int:
        """Records of the whole grid."""
        grid, models = self.manifest["config"]["grid"], len(layout.model_names(self.manifest["config"]))
        n_cells = models * len(grid["templates"]) * len(grid["k"]) * len(grid["seeds"])
        curve = self.manifest["config"].get("finetune") or {}
        trained, names = len(curve.get("sizes", ())) * len(curve.get("seeds", ())), self.manifest["identity"]
        methods = [one for one in names.get("references", {}).values() if "method" in one]
        n_cells += len(layout.reference_names(self.manifest)) + len(methods) * (trained - 1)
        return n_cells * int(self.manifest["n_samples"])


@dataclass(frozen=True)
class ReportData:
    """What a report is made of."""

    runs: tuple[RunFacts, ...]
    metric: str
    """What strategies are ranked by."""
    level: float
    strategies: pd.DataFrame
    """Best first: `label`, the axes, `mean`, `low`, `high`, `method`, `n_scored`, `n_attempted`,
    `is_best`, `may_be_best`, `share_best`, `tokens` (mean per prompt), and the figures of the cell."""
    comparison: Comparison | None
    comparison_note: str
    """Why there is no comparison; empty where there is."""
    answers: AnswerGrid
    """Per strategy (in the order of `strategies`) and sample."""

    @property
    def is_generated(self) -> bool:
        """Whether answers are texts that metrics judge."""
        return bool(self.runs[0].manifest.get("answer_metrics"))

    @property
    def draw(self) -> str:
        """What figures of single cells hold for, to stand behind a sentence or title; empty without demonstrations."""
        return f" ({THIS_DRAW})" if (of_prompts(self.strategies)["k"] > 0).any() else ""

    @property
    def class_names(self) -> list[str]:
        """Of a classification task."""
        return list(self.runs[0].manifest["class_names"])

    @property
    def task(self) -> str:
        """The name of the task."""
        return str(self.runs[0].manifest["config"]["task"]["name"])


def gather(run_dirs: Sequence[str]) -> ReportData:
    """Read everything that a report on these run directories shows.

    Raises:
        RunDirError: not a run directory, or one without records.
        DataError: runs of different tasks or samples.
    """
    names = run_names(run_dirs)
    runs = tuple(_run_facts(run_dir, name) for run_dir, name in zip(run_dirs, names, strict=True))
    metric = main_figure(runs[0].cells)
    for run in runs:
        if main_figure(run.cells) != metric:
            raise ConfigError(
                f"'{run.run_dir}' is judged by {main_figure(run.cells)}, '{runs[0].run_dir}' by {metric}; "
                "report runs of one task together"
            )
    comparison, note = None, ""
    try:
        comparison = compare(run_dirs)
    except ConfigError as error:
        note = str(error)
    strategies = _strategies(runs, metric, comparison)
    answers = answer_grid([(run.run_dir, run.name) for run in runs], strategies, metric)
    strategies = strategies.assign(tokens=answers.mean_prompt_tokens)
    level = float(comparison.settings["level"]) if comparison else LEVEL
    return ReportData(runs, metric, level, strategies, comparison, note, answers)


def run_names(run_dirs: Sequence[str]) -> list[str]:
    """As `compare` names runs: empty for one; else the folders' names, or whole paths where those repeat."""
    if len(run_dirs) == 1:
        return [""]
    names = [PurePosixPath(run_dir.rstrip("/")).name for run_dir in run_dirs]
    return names if len(set(names)) == len(names) else [str(run_dir) for run_dir in run_dirs]


def interval_columns(metric: str) -> tuple[str, str]:
    """Names of the columns of a cell that hold a metric's interval."""
    return ("low", "high") if metric == "accuracy" else (f"{metric}_low", f"{metric}_high")


def _run_facts(run_dir: str, name: str) -> RunFacts:
    store = RunStore(run_dir)
    manifest = read_manifest(run_dir, "identity", "sessions", "status", "engines", "n_pool", "notes")
    cells = summarise(run_dir)
    if cells.empty:
        raise RunDirError(
            f"'{run_dir}' has no records yet, or none that can be read; run or resume it with `harness run`"
        )
    calibration = None
    compares_classes = not manifest.get("answer_metrics") and not manifest.get("choices")
    if compares_classes and cells["n_scored"].sum() and manifest.get("method") != "generate":
        calibration = calibrate(run_dir)
    cost, training = _cost(store, manifest)
    return RunFacts(name, run_dir, manifest, cells, cost, training, calibration, _prompts(store))


def _prompts(store: RunStore) -> Sequence[Mapping[str, Any]] | None:
    """Entries of `prompts.json`; None where it is not there or damaged, since all else can be shown."""
    if not store.exists(prompt_examples.NAME):
        return None
    try:
        document = store.read_json(prompt_examples.NAME)
    except RunDirError as error:
        log.warning("%s", error)
        return None
    if fault := layout.PROMPTS(document, "it"):
        log.warning("'%s/%s' is damaged: %s; its prompts are not shown", store.run_dir, prompt_examples.NAME, fault)
        return None
    prompts: Sequence[Mapping[str, Any]] = document["prompts"]
    return prompts


def _cost(store: RunStore, manifest: Mapping[str, Any]) -> tuple[Cost, Mapping[str, float]]:
    """What the units took, and per classifier what its training did."""
    rows = []
    trained = {name: 0.0 for name, one in manifest["identity"].get("references", {}).items() if "method" in one}
    for unit_id in sorted(store.part_ids()):
        # Damaged parts are left out here as they are of the records, which warn of them.
        with suppress(OSError, ValueError, RunDirError):
            rows.append(checked(store.read_statistics(unit_id)))
            if trained:
                model = store.read_part(unit_id, ["model"])["model"][0].as_py()
                trained |= {model: trained[model] + rows[-1]["seconds"]} if model in trained else {}
    spans = [(session["started"], session["ended"]) for session in manifest["sessions"]]
    wall = None
    if spans and all(end for _, end in spans):
        wall = sum((datetime.fromisoformat(e) - datetime.fromisoformat(s)).total_seconds() for s, e in spans)
    counts = ("n_prompts", "prompt_tokens", "tokens_computed")
    totals = {name: int(sum(row[name] for row in rows)) for name in counts}
    return Cost(**totals, replica_seconds=float(sum(row["seconds"] for row in rows)), wall_seconds=wall), trained


def _strategies(runs: Sequence[RunFacts], metric: str, comparison: Comparison | None) -> pd.DataFrame:
    """The cells, K = 0 once, with what the comparison says of them."""
    frame = pd.concat([run.cells.assign(run=run.name, calibration="") for run in runs], ignore_index=True)
    frame["cell_seed"] = frame["seed"]
    zero = is_zero_shot(frame)
    copies = frame[zero].sort_values("seed", kind="stable").duplicated(["run", "model", "template"])
    frame = frame.drop(index=copies.index[copies]).reset_index(drop=True)
    frame["seed"] = frame["seed"].astype("Int64").mask(is_zero_shot(frame))
    frame["label"] = labels_of(frame[list(AXES)])
    if comparison is None:
        low, high = interval_columns(metric)
        frame = frame.assign(mean=frame[metric], low=frame[low], high=frame[high], method="", share_best=np.nan)
        frame = frame.sort_values("mean", ascending=False, kind="stable", ignore_index=True)
        first: NDArray[np.bool_] = np.arange(len(frame)) == 0
        return frame.assign(is_best=first, may_be_best=first)
    shared = ["label", "mean", "low", "high", "method", "is_best", "may_be_best", "share_best"]
    own = frame.drop(columns=["low", "high"], errors="ignore")
    return comparison.strategies[shared].merge(own, on="label", how="left", validate="one_to_one")
