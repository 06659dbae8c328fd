"""The `report` verb: run directories in, one HTML file out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.core.errors import ConfigError
from harness.reporting.report.browser import browser
from harness.reporting.report.gathering import ReportData, gather
from harness.reporting.report.headline import answer
from harness.reporting.report.page import page
from harness.reporting.report.sections import sections
from harness.reporting.report.wording import last_part, scale_of
from harness.results.store import RunStore

NAME = "report.html"


def write_report(
    run_dirs: Sequence[str], out: str | None = None, by: Sequence[str] = (), seeds: str = "random"
) -> Path:
    """Write the report on one or several run directories of a task.

    Args:
        run_dirs: local paths or storage URIs.
        out: the file; None: `report.html` in a single local run directory, else in the working
            directory.
        by: axes of a strategy, the others averaged; empty: all but the seed.
        seeds: what averaged seeds stand for, as of `compare`.

    Returns:
        Where the file is. The same records give the same bytes.

    Raises:
        RunDirError: not a run directory, or one without records.
        DataError: runs of different tasks or samples.
        ConfigError: `out` is a folder, or in none; an axis that is none, or that leaves nothing to compare.
    """
    target = Path(out) if out is not None else _default(run_dirs)
    if target.is_dir() or not target.parent.is_dir():
        what = "is a folder" if target.is_dir() else "has no folder to stand in"
        raise ConfigError(f"the report '{target}' {what}; set --out to a file in a folder that is there")
    if not os.access(target.parent if target.is_file() or not target.exists() else target, os.W_OK):
        raise ConfigError(
            f"the report '{target}' cannot be written there; set --out to a file in a folder you may write"
        )
    write_page(target, render(gather(run_dirs, by, seeds)), is_named=out is not None)
    return target


def write_page(target: Path, text: str, is_named: bool) -> None:
    """Write a page as a whole.

    Args:
        target: the file.
        text: of the page.
        is_named: whether the user named it: a device or pipe is written to then. To put a file in the place of
            `/dev/stdout` or `/dev/null`, which root may, would take it away from all programs.
    """
    if is_named and target.exists() and not target.is_file():
        target.write_text(text, encoding="utf-8")
        return
    RunStore(str(target.parent)).write_bytes(target.name, text.encode())


def render(data: ReportData, live: str | None = None, is_over: bool = False) -> str:
    """The page of gathered data.

    Args:
        data: of the report.
        live: of a page that is served, what tells its state from a later one, for which it reloads itself.
        is_over: whether there will be no later one.
    """
    scale = scale_of(data.metric, data.strategies["mean"].tolist())
    chance = None
    if not data.is_generated:
        chance = float(np.bincount(data.answers.gold).max() / len(data.answers.gold))
    shown = browser(data)
    names = [run.name or str(run.manifest["config"].get("name", run.run_dir)) for run in data.runs]
    title = f"{data.task}: {', '.join(last_part(name) for name in names)}"
    parts = sections(data, scale, chance, shown)
    return page(title, answer(data, scale, chance), parts, shown.document, live, is_over)


def _default(run_dirs: Sequence[str]) -> Path:
    if len(run_dirs) == 1 and RunStore(run_dirs[0]).is_local:
        return Path(run_dirs[0]) / NAME
    return Path(NAME)
