"""What the verbs do with a group: a configuration that names `tasks`, or the folder of its runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.arguments import find_tasks_beside
from harness.cli.runs import shown
from harness.core.errors import ConfigError
from harness.reporting.console import output_console, say, write

if TYPE_CHECKING:
    from harness.config.groups import Group
    from harness.results.groups import GroupRun
    from harness.results.status import RunStatus
    from harness.running.group import GroupResult


def group_of(config: Path, overrides: Sequence[str] | None) -> Group | None:
    """The group of a configuration; None where it is one run's."""
    from harness.config.groups import load_group

    find_tasks_beside()
    return load_group(config, overrides or [])


def runs_of(run_dir: str) -> tuple[GroupRun, ...] | None:
    """The runs of a group's folder; None where it is a run directory, or nothing that is there."""
    from harness.results.groups import read_group

    return read_group(run_dir)


def write_plans(group: Group) -> None:
    """Print the plan of each task, and what all of them cost together."""
    from harness.planning.grouping import members_of
    from harness.planning.report import make_report
    from harness.reporting.plans import write_plan

    console = output_console()
    members = members_of(group)
    one_pass = unique = prompts = 0
    for member in members:
        say(console, f"=== {member.label} ===")
        report = make_report(member.config)
        write_plan(console, report)
        one_pass += report.tokens_one_pass
        unique += report.tokens_unique
        prompts += report.prompts
    say(
        console,
        f"=== {len(members)} tasks: {prompts:,} prompts; tokens: {one_pass:,} as one pass per prompt, {unique:,} "
        "unique ===",
    )


def write_result(result: GroupResult) -> None:
    """Print the figures of a group that is through, and where they come from."""
    show(result.run_dir, "table")
    place = shown(result.run_dir)
    sys.stdout.write(
        f"one task: harness show {shown(result.runs[0][1].run_dir)}\n"
        f"next: harness compare {place}   harness report {place}\n"
    )


def show(run_dir: str, fmt: str) -> None:
    """Print the macro averages of a group's folder."""
    from harness.analysis.grouped import group_figures
    from harness.reporting.group import write_group

    write_group(output_console(), group_figures(runs_of(run_dir) or ()), fmt)


def compare(runs: Sequence[GroupRun], baseline: str | None, fmt: str, refused: Sequence[str]) -> None:
    """Print the differences between the strategies of a group.

    Args:
        runs: of the group.
        baseline: as of the verb.
        fmt: as of the verb.
        refused: flags that were given and that a group has no use for.

    Raises:
        ConfigError: such a flag.
    """
    from harness.analysis.grouped import group_figures
    from harness.analysis.macro import against
    from harness.reporting.group import write_group_pairs

    _refuse(refused)
    macro = group_figures(runs)
    write_group_pairs(output_console(), macro if baseline is None else against(macro, baseline), fmt)


def report(run_dir: str, runs: Sequence[GroupRun], out: str | None, refused: Sequence[str]) -> Path:
    """Write the page on a group, and one on each of its runs; arguments as those of `compare`.

    Raises:
        ConfigError: a flag that a group has no use for.
    """
    from harness.reporting.report.group import write_group_report

    _refuse(refused)
    return write_group_report(run_dir, runs, out)


def _refuse(flags: Sequence[str]) -> None:
    if flags:
        raise ConfigError(
            f"{', '.join(flags)}: a group compares model, template and K by what each task is judged by; give a run "
            "directory in it for all else"
        )


def status(runs: Sequence[GroupRun], fmt: str) -> None:
    """Print how far each run of a group is."""
    from harness.core.errors import RunDirError
    from harness.reporting.status import write_status
    from harness.results.damage import told_as_damage
    from harness.results.manifest import NAME
    from harness.results.status import read_status
    from harness.results.store import RunStore

    console = output_console()
    found: dict[str, RunStatus | None] = {}
    words: dict[str, str] = {}
    for run in runs:
        try:
            with told_as_damage([run.run_dir]):
                found[run.label], words[run.label] = read_status(run.run_dir), ""
        except RunDirError as error:
            begun = RunStore(run.run_dir).exists(NAME)
            found[run.label], words[run.label] = None, f": {error}" if begun else ": not begun"
    if fmt == "json":
        facts = {label: None if one is None else asdict(one) for label, one in found.items()}
        write(console, json.dumps(facts, ensure_ascii=False, indent=2) + "\n")
        return
    for label, one in found.items():
        say(console, f"=== {label}{words[label]} ===")
        if one is not None:
            write_status(console, one, fmt)


def only_group(run_dirs: Sequence[str]) -> tuple[GroupRun, ...] | None:
    """The runs of the only folder, where it is a group's.

    Raises:
        ConfigError: a group among several folders.
    """
    groups = [run_dir for run_dir in run_dirs if runs_of(run_dir) is not None]
    if groups and len(run_dirs) > 1:
        raise ConfigError(
            f"'{shown(groups[0])}' is a group's folder; expected it alone, or run directories of one task"
        )
    return runs_of(groups[0]) if groups else None
