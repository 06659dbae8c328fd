"""The run directories of a group as one set of figures; while the group goes on, of the tasks that have begun."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.compared_runs import values_of_runs
from harness.analysis.macro import Macro, macro_averages
from harness.analysis.task_values import TaskValues
from harness.core.errors import RunDirError
from harness.results.damage import told_as_damage
from harness.results.groups import GroupRun


def group_figures(runs: Sequence[GroupRun]) -> Macro:
    """Macro averages over the tasks of a group, each by what it is judged by.

    Args:
        runs: from `harness.results.groups.read_group`.

    Raises:
        RunDirError: no task has records, or a run directory is damaged.
    """
    tasks: list[TaskValues] = []
    waiting: list[str] = []
    reason: RunDirError | str = "it has no prompts"
    for one in runs:
        try:
            with told_as_damage([one.run_dir]):
                table, metric = values_of_runs([one.run_dir], None, [])
        except RunDirError as error:
            waiting.append(one.label)
            reason = error
            continue
        values = TaskValues.of(one.label, metric, table)
        if values.strategies:
            tasks.append(values)
    if not tasks:
        raise RunDirError(f"no task of the group can be read; the last: {reason}") from None
    notes = [f"without records, so left out: {', '.join(waiting)}"] if waiting else []
    return macro_averages(tasks, notes=notes)
