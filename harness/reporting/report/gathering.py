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

import pandas as pd

from harness.analysis.calibrate import Calibration, calibrate
from harness.analysis.cells import main_figure, of_prompts
from harness.analysis.compare import Comparison
from harness.analysis.compared_runs import read_manifest
from harness.analysis.intervals import LEVEL
from harness.analysis.strategies import THIS_DRAW
from harness.analysis.summary import summarise
from harness.core.errors import ConfigError, RunDirError
from harness.planning import examples as prompt_examples
from harness.reporting.report.predictions import AnswerGrid, answer_grid
from harness.reporting.report.strategies import averaged, cells_of, compared, ranked
from harness.results import layout
from harness.results.parts import checked
from harness.results.races import NAME as RACES
from harness.results.races import read_races
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
    around: Sequence[Mapping[str, Any]]
    """What stands around the queries of cells, of `prompts.json`; empty where the run kept nothing."""
    own: Mapping[str, Mapping[str, Mapping[str, int]]]
    """Model and seed to the samples that are demonstrations themselves, of `prompts.json`."""
    race: Mapping[str, Any] | None
    """The race that went on last, where it has decided something that can be shown."""

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
    `is_best`, `may_be_best`, `share_best`, `n_draws` (of demonstrations), and means over its cells of `tokens` (mean
    per prompt) and the cells' other figures. Axes as of `strategies.averaged`."""
    cells: pd.DataFrame
    """What strategies are averaged over, in their order: `label`, the axes, `cell_seed`, `strategy` (the row of its
    strategy; -1 where none has the cell), `tokens`, and the cell's figures."""
    comparison: Comparison | None
    comparison_notes: tuple[str, ...]
    """Why there is no comparison, or why it is not of averaged draws."""
    answers: AnswerGrid
    """Per cell (in the order of `cells`) and sample."""

    @property
    def is_generated(self) -> bool:
        """Whether answers are texts that metrics judge."""
        return bool(self.runs[0].manifest.get("answer_metrics"))

    @property
    def draw(self) -> str:
        """What figures of strategies hold for, to stand behind a sentence or title; empty where draws are averaged."""
        if self.comparison is None:
            return self.cell_draw
        return f" ({THIS_DRAW})" if self.comparison.is_one_draw else ""

    @property
    def cell_draw(self) -> str:
        """The same of figures of single cells; empty without demonstrations."""
        return f" ({THIS_DRAW})" if (of_prompts(self.cells)["k"] > 0).any() else ""

    @property
    def decided_race(self) -> Mapping[str, Any] | None:
        """The race that decided what the only run of a report has; None where the full grid was run since."""
        return _decided(self.runs)

    def wording_of(self, strategy: Mapping[Any, Any]) -> Mapping[str, Any] | None:
        """The template of a strategy, from the manifest; None of references, and where several are averaged.

        Args:
            strategy: `run` and `template`, as in `strategies`.
        """
        runs = [run for run in self.runs if strategy["run"] in (run.name, f"{len(self.runs)} runs")]
        if not runs or pd.isna(strategy["template"]):
            return None
        found: Mapping[str, Any] | None = runs[0].manifest["identity"]["templates"].get(strategy["template"])
        return found

    @property
    def class_names(self) -> list[str]:
        """Of a classification task."""
        return list(self.runs[0].manifest["class_names"])

    @property
    def task(self) -> str:
        """The name of the task."""
        return str(self.runs[0].manifest["config"]["task"]["name"])


def gather(run_dirs: Sequence[str], by: Sequence[str] = (), seeds: str = "random") -> ReportData:
    """Read everything that a report on these run directories shows.

    Args:
        run_dirs: local paths or storage URIs.
        by: axes of a strategy, the others averaged; empty: all but the seed.
        seeds: what averaged seeds stand for, as of `compare`.

    Raises:
        RunDirError: not a run directory, or one without records.
        DataError: runs of different tasks or samples.
        ConfigError: an axis that is none, or that leaves nothing to compare.
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
    comparison, notes = compared(run_dirs, by, seeds, _decided(runs) is not None)
    cells = cells_of({run.name: run.cells for run in runs})
    strategies, cells = ranked(cells, comparison, metric, interval_columns(metric))
    answers = answer_grid([(run.run_dir, run.name) for run in runs], cells, metric)
    cells = cells.assign(tokens=answers.mean_prompt_tokens)
    level = float(comparison.settings["level"]) if comparison else LEVEL
    return ReportData(runs, metric, level, averaged(strategies, cells), cells, comparison, notes, answers)


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
    prompts = _prompts(store)
    return RunFacts(
        name, run_dir, manifest, cells, cost, training, calibration,
        None if prompts is None else prompts["prompts"],
        (prompts or {}).get("around", ()), (prompts or {}).get("own", {}), _race(store),
    )  # fmt: skip


def _race(store: RunStore) -> Mapping[str, Any] | None:
    try:
        races = read_races(store)
    except RunDirError as error:
        log.warning("%s; it is not shown", error)
        return None
    if not races or not races[-1]["rounds"]:
        return None
    race = races[-1]
    fault = layout.RACE(race, "it")
    if not fault and any(arm >= len(race["strategies"]) for arm in _arms(race)):
        fault = "a round names a strategy that is none"
    if fault:
        log.warning("'%s/%s' is damaged: %s; its race is not shown", store.run_dir, RACES, fault)
        return None
    return race


def _arms(race: Mapping[str, Any]) -> list[int]:
    """The strategies that a race's rounds name, by their places."""
    return [arm for one in race["rounds"] for arm in (one["candidate"], *one["dropped"], *one["resting"])]


def _decided(runs: Sequence[RunFacts]) -> Mapping[str, Any] | None:
    if len(runs) > 1 or runs[0].cells["n_attempted"].nunique() < 2:
        return None
    race = runs[0].race
    return race if race is not None and race.get("result") is not None else None


def _prompts(store: RunStore) -> Mapping[str, Any] | None:
    """What `prompts.json` holds; None where it is not there or damaged, since all else can be shown."""
    if not store.exists(prompt_examples.NAME):
        return None
    try:
        document: Mapping[str, Any] = store.read_json(prompt_examples.NAME)
    except RunDirError as error:
        log.warning("%s", error)
        return None
    if fault := layout.PROMPTS(document, "it"):
        log.warning("'%s/%s' is damaged: %s; its prompts are not shown", store.run_dir, prompt_examples.NAME, fault)
        return None
    return document


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
        seconds = ((datetime.fromisoformat(e) - datetime.fromisoformat(s)).total_seconds() for s, e in spans)
        wall = sum(max(0.0, one) for one in seconds)  # a clock may have been set back
    counts = ("n_prompts", "prompt_tokens", "tokens_computed")
    totals = {name: int(sum(row[name] for row in rows)) for name in counts}
    return Cost(**totals, replica_seconds=float(sum(row["seconds"] for row in rows)), wall_seconds=wall), trained
