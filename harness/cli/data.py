"""Verbs about tasks and their data: which there are, a grid for a table of one's own, official files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.core.errors import ConfigError, did_you_mean
from harness.core.escaping import visible
from harness.core.foreign import reason
from harness.reporting.console import error_console, output_console


def print_version(asked: bool) -> None:
    """Write the version and end, where it was asked for."""
    from harness import __version__

    if asked:
        sys.stdout.write(f"harness {__version__}\n")
        raise typer.Exit


def tasks_command() -> None:
    """The registered tasks: their templates, labels and expected files."""
    from harness.core.task import find_task, registered_tasks
    from harness.reporting.plans import write_tasks

    write_tasks(output_console(), [find_task(name) for name in sorted(registered_tasks())])


def init_command(
    data: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="CSV, TSV, JSON lines, JSON, parquet or xlsx.")],
    label: Annotated[str, typer.Option("--label", metavar="COLUMN", help="The class; else it is found.")] = "",
    answer: Annotated[
        str, typer.Option("--answer", metavar="COLUMN", help="The answer that a model is to write.")
    ] = "",
    choices: Annotated[
        list[str] | None,
        typer.Option("--choices", metavar="COLUMN", help="A choice, or lists of them; again for more, or with commas."),
    ] = None,
    encoding: Annotated[str, typer.Option("--encoding", help="Of text files.")] = "utf-8",
    chat: Annotated[bool, typer.Option("--chat", help="Also a template for models with a chat template.")] = False,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Where the two files go.")] = Path(),
) -> None:
    """Look at a table and write a grid and templates for it."""
    from harness.core.task import StartWishes, find_task

    start = find_task("table").start
    assert start is not None
    if label and answer:
        raise ConfigError("--label and --answer are both given; expected one of them")
    if label and choices:
        raise ConfigError("--label and --choices are both given; expected --answer, which says what choice is right")
    starter = start(data, StartWishes(label, answer, encoding, chat, tuple(choices or ()), to))
    files = {to / f"{starter.name}_grid.yaml": starter.grid, to / f"{starter.name}_templates.yaml": starter.templates}
    for path in files:
        if path.exists() or path.is_symlink():
            raise ConfigError(f"'{path}' is there already; move it away, or give another folder with --to")
    _write_all(files, to)
    grid = next(iter(files))
    console = output_console()
    for line in (
        *starter.understood, *(f"wrote {path}" for path in files), f"next: harness plan {grid}, then harness run {grid}"
    ):  # fmt: skip
        console.print(visible(line), markup=False, highlight=False, soft_wrap=True)


def _write_all(files: dict[Path, str], folder: Path) -> None:
    """Write new files, all of them or none, of which the first is a configuration that can be read.

    Raises:
        ConfigError: the folder cannot be written, or the table has names that no configuration can hold.
    """
    from harness.config.loading import load_config

    begun: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            with path.open("x", encoding="utf-8") as file:
                begun.append(path)
                file.write(text)
        load_config(begun[0])
    except BaseException as error:
        for path in begun:
            path.unlink(missing_ok=True)
        if isinstance(error, ConfigError):
            raise ConfigError(f"the table has names that no configuration can hold: {error}; rename them") from None
        if isinstance(error, OSError | UnicodeError):
            raise ConfigError(f"'{folder}' cannot be written: {reason(error)}; give another folder with --to") from None
        raise


def data_get_command(
    name: Annotated[str, typer.Argument(metavar="TASK", help="A registered task; `harness tasks` lists them.")],
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Folder; data_in/TASK by default.")] = None,
) -> None:
    """Download the official files of a task and verify them by their git blob ids."""
    from harness.core.downloads import fetch
    from harness.core.task import registered_task, registered_tasks

    task = registered_task(name)
    if task is None:
        raise ConfigError(f"no data set '{name}'{did_you_mean(name, registered_tasks())}")
    if not task.downloads:
        raise ConfigError(
            f"task '{name}' has no official files to download; put your own into task.data_dir: "
            f"{', '.join(task.expected_files)}"
        )
    fetch(task.downloads, to or Path("data_in") / name, error_console())
