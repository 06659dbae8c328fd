"""Arguments that several verbs take, and the configuration that they give."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from harness.config.schema import RunConfig

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; its keys are in configs/README.md.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, e.g. task.limit=100 grid.k=[0,8].")
]
RunDir = Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run directory: {out}/{name}.")]
Format = Annotated[str, typer.Option("--format", metavar="table|json|csv|md", help="How to print.")]


def load(config: Path, overrides: Sequence[str] | None) -> RunConfig:
    """The configuration of a verb that runs the user's own task, which may stand beside the user.

    Verbs that read run directories never come here: they import nothing from the current directory.
    """
    from harness.config.loading import load_config

    find_tasks_beside()
    return load_config(config, overrides or [])


def find_tasks_beside() -> None:
    """Let modules in the current directory be imported, as a run's own task may be one."""
    sys.path.insert(0, str(Path.cwd()))
