"""The folder of a group: which run directories lie in it, in `group.json`. Refuses to know what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.errors import RunDirError
from harness.results import manifest as manifests
from harness.results.store import RunStore

NAME = manifests.GROUP


@dataclass(frozen=True)
class GroupRun:
    """One run of a group."""

    label: str
    """What tables call its task."""
    run_dir: str


def write_group(run_dir: str, runs: Sequence[tuple[str, str]]) -> None:
    """Say which runs a group has.

    Args:
        run_dir: the group's folder or URI.
        runs: label and folder's name of each.

    Raises:
        RunDirError: the folder is one run's own, or cannot be written.
    """
    store = RunStore(run_dir)
    if store.exists(manifests.NAME):
        raise RunDirError(
            f"'{run_dir}' is the directory of one run, expected a folder for a group; set another name=..."
        )
    store.create("")
    tasks = [{"label": label, "folder": folder} for label, folder in runs]
    store.write_json(NAME, {"format": 1, "tasks": tasks})


def read_group(run_dir: str) -> tuple[GroupRun, ...] | None:
    """The runs of a group in their order; None where the folder is no group's.

    Raises:
        RunDirError: its document is damaged.
    """
    store = RunStore(run_dir)
    if not store.exists(NAME):
        return None
    found = store.read_json(NAME)
    tasks = found.get("tasks") if isinstance(found, dict) else None
    if not isinstance(tasks, list) or not tasks or not all(_is_entry(task) for task in tasks):
        raise RunDirError(
            f"'{run_dir}/{NAME}' is damaged: expected tasks, a list of label and folder each; run the group's command "
            "again, which writes it"
        )
    base, mark, query = run_dir.partition("?") if "://" in run_dir else (run_dir, "", "")
    return tuple(GroupRun(task["label"], f"{base.rstrip('/')}/{task['folder']}{mark}{query}") for task in tasks)


def _is_entry(task: object) -> bool:
    if not isinstance(task, dict) or not all(isinstance(task.get(name), str) for name in ("label", "folder")):
        return False
    folder = task["folder"]
    return bool(folder) and "/" not in folder and folder not in (".", "..")
