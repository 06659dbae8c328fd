"""The Python interface: the verbs of the command line as functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.results.records import load_records

if TYPE_CHECKING:
    from harness.config.schema import RunConfig
    from harness.planning.report import PlanReport
    from harness.running.driver import RunResult

__all__ = ["load_records", "plan", "run"]


def run(
    config: RunConfig | str | Path, overrides: Sequence[str] = (), *, fresh: bool = False, retry_failed: bool = False
) -> RunResult:
    """Run or resume a grid; see `harness.running.driver.run`.

    Args:
        config: a configuration, or the path of a YAML file.
        overrides: `key=value` assignments, applied to a file.
        fresh: move an existing run directory aside and start anew.
        retry_failed: compute every failed record again.
    """
    from harness.running.driver import run as run_grid

    return run_grid(_config(config, overrides), fresh, retry_failed=retry_failed)


def plan(config: RunConfig | str | Path, overrides: Sequence[str] = ()) -> PlanReport:
    """What a grid would cost, without loading a model; see `harness.planning.report.make_report`."""
    from harness.planning.report import make_report

    return make_report(_config(config, overrides))


def _config(config: RunConfig | str | Path, overrides: Sequence[str]) -> RunConfig:
    from harness.config.loading import load_config
    from harness.config.schema import RunConfig

    return config if isinstance(config, RunConfig) else load_config(config, overrides)
