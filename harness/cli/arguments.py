"""Arguments that several verbs take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; its keys are in configs/README.md.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, e.g. task.limit=100 grid.k=[0,8].")
]
RunDir = Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run directory: {out}/{name}.")]
Format = Annotated[str, typer.Option("--format", metavar="table|json|csv|md", help="How to print.")]
