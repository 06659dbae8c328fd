"""The Python interface: the verbs of the command line as functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from harness.analysis.calibrate import Calibration
    from harness.analysis.compare import Comparison
    from harness.config.schema import RunConfig
    from harness.planning.report import PlanReport
    from harness.running.driver import RunResult
    from harness.running.race import RaceResult

    Config = RunConfig | Mapping[str, Any] | str | Path

__all__ = ["calibrate", "compare", "load_records", "load_samples", "plan", "race", "report", "run"]


def run(config: Config, overrides: Sequence[str] = (), *, fresh: bool = False, retry_failed: bool = False) -> RunResult:
    """Run or resume a grid; see `harness.running.driver.run`.

    Args:
        config: a configuration, its keys and values, or the path of a YAML file.
        overrides: `key=value` assignments, applied to keys and values or a file.
        fresh: move an existing run directory aside and start anew.
        retry_failed: compute every failed record again.
    """
    from harness.running.driver import run as run_grid

    return run_grid(_config(config, overrides), fresh, retry_failed=retry_failed)


def race(config: Config, overrides: Sequence[str] = (), *, fresh: bool = False) -> RaceResult:
    """The best strategy of a grid at a share of its cost; arguments as of `run`, see `harness.running.race.race`."""
    from harness.running.race import race as race_grid

    return race_grid(_config(config, overrides), fresh)


def plan(config: Config, overrides: Sequence[str] = ()) -> PlanReport:
    """What a grid would cost, without loading a model; see `harness.planning.report.make_report`."""
    from harness.planning.report import make_report

    return make_report(_config(config, overrides))


def compare(
    run_dirs: str | Sequence[str],
    by: Sequence[str] = (),
    baseline: str | None = None,
    metric: str | None = None,
    *,
    seeds: str = "random",
    calibrated: Sequence[str] = (),
) -> Comparison:
    """Differences between strategies on the same samples; see `harness.analysis.compare.compare`.

    Args:
        run_dirs: one run directory or several of one task.
        by: axes that make a strategy, such as `["template", "k"]`; the cells by default.
        baseline: a strategy's label, or `axis=value,...`; all pairs by default.
        metric: `accuracy`, a metric of answers, or a stored figure of single records.
        seeds: what averaged seeds stand for: `random`, `pooled` or `fixed`.
        calibrated: methods whose predictions count as strategies: `batch`, `contextual`, `PMI_DC`.
    """
    from harness.analysis.compare import compare as compare_runs

    return compare_runs(_several(run_dirs), by, baseline, metric, seeds=seeds, calibrated=calibrated)


def calibrate(run_dir: str) -> Calibration:
    """Accuracy before and after calibration, from stored label scores; see `harness.analysis.calibrate.calibrate`."""
    from harness.analysis.calibrate import calibrate as calibrate_run

    return calibrate_run(run_dir)


def report(
    run_dirs: str | Sequence[str], out: str | None = None, by: Sequence[str] = (), *, seeds: str = "random"
) -> Path:
    """Write the HTML report and say where; see `harness.reporting.report.build.write_report`.

    Args:
        run_dirs: one run directory or several of one task.
        out: the file; `report.html` in a single run directory by default.
        by: axes that make a strategy, such as `["template"]`; all but the seed by default.
        seeds: what averaged seeds stand for: `random`, `pooled` or `fixed`.
    """
    from harness.reporting.report.build import write_report

    return write_report(_several(run_dirs), out, by, seeds)


def load_records(
    run_dir: str,
    columns: Sequence[str] | None = None,
    unit_ids: Collection[str] | None = None,
    *,
    categories: bool = False,
    text: bool = False,
) -> pd.DataFrame:
    """All committed records of a run; see `harness.results.records.load_records`.

    Args:
        run_dir: a run directory, local or a storage URI.
        columns: those of the records to read; None reads all.
        unit_ids: the units to read; None reads all.
        categories: give names as categories.
        text: put the samples' own columns beside each record: fields, right answers, cluster.

    Raises:
        ConfigError: `text` with columns that lack `sample_id`.
    """
    from harness.results import records

    found = records.load_records(run_dir, columns, unit_ids, categories=categories)
    if not text:
        return found
    from harness.core.errors import ConfigError

    if "sample_id" not in found:
        raise ConfigError(f"load_records(text=True) has columns {list(found.columns)}; expected sample_id among them")
    samples = load_samples(run_dir)
    return found.merge(samples.drop(columns=samples.columns.intersection(found.columns).drop("sample_id")), how="left")


def load_samples(run_dir: str) -> pd.DataFrame:
    """What a run asked, one row per sample: `sample_id`, `gold`, `answers`, `cluster`, and a column per field.

    Args:
        run_dir: a run directory, local or a storage URI.

    Raises:
        RunDirError: not a run directory, or a damaged one.
    """
    from harness.results.samples import read_samples
    from harness.results.store import RunStore

    frame: pd.DataFrame = read_samples(RunStore(run_dir)).to_pandas()
    return frame


def _several(run_dirs: str | Sequence[str]) -> list[str]:
    return [run_dirs] if isinstance(run_dirs, str) else list(run_dirs)


def _config(config: Config, overrides: Sequence[str]) -> RunConfig:
    from harness.config.loading import config_of, load_config
    from harness.config.schema import RunConfig
    from harness.core.errors import ConfigError

    if isinstance(config, Mapping):
        return config_of(config, overrides)
    if not isinstance(config, RunConfig):
        return load_config(config, overrides)
    if overrides:
        raise ConfigError(f"overrides {list(overrides)} are for a file or keys and values; change the RunConfig itself")
    return config
