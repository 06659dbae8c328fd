"""The manifest: what a run directory holds and how it came to be.

Secrets never enter it: it is built from the configuration, hashes and versions only.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.core.addresses import redacted
from harness.core.errors import RunDirError
from harness.core.escaping import one_line, visible
from harness.results import layout
from harness.results.store import RunStore

NAME = "manifest.json"
GROUP = "group.json"
"""Of a folder that holds the run directories of several tasks."""
SHOWN = 80
"""Characters of a value that a message quotes."""
PACKAGES = ("ray", "torch", "transformers", "tokenizers", "pyarrow", "pandas", "numpy", "accelerate")


def new_manifest(config: Mapping[str, Any], identity: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a run that begins now.

    Args:
        config: the resolved configuration.
        identity: what decides the results; a run directory belongs to one identity.
        facts: shard size, class names, notes of the loaders, ...
    """
    return {
        "format": layout.FORMAT,
        "status": "running",
        "config": config,
        "identity": identity,
        **facts,
        "sessions": [],
    }


def new_session() -> dict[str, Any]:
    """One driver's stay: when, where from, with which versions."""
    return {
        "started": now(),
        "ended": None,
        "command": visible(redacted(" ".join(sys.argv))),
        "host": platform.node(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "git_commit": _git_commit(),
    }


def read_manifest(store: RunStore, *entries: str) -> dict[str, Any]:
    """The manifest of a run directory.

    Args:
        store: of the run directory.
        entries: those of `layout.MANIFEST` that the caller uses; they are checked. What `layout.LATER` names
            is checked where it is there.

    Raises:
        RunDirError: not a run directory, written by a newer version, or damaged in one of these entries.
    """
    if not store.exists(NAME):
        if store.exists(GROUP):
            raise RunDirError(
                f"'{store.run_dir}' holds the runs of a group; expected one run directory here: name a folder in it"
            )
        raise RunDirError(f"'{store.run_dir}' is not a run directory (no {NAME}); expected the folder of a run")
    found = store.read_json(NAME)
    fault = layout.keys({name: layout.MANIFEST[name] for name in entries}, layout.LATER)(found, "it")
    if fault:
        raise RunDirError(f"'{store.run_dir}/{NAME}' is damaged: {fault.replace('it.', '', 1)}; {store.anew()}")
    manifest: dict[str, Any] = found
    return manifest


def check_identity(store: RunStore, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a run directory that belongs to another configuration.

    Raises:
        RunDirError: with the differences, dotted keys with both values.
    """
    models = _model_differences(found.get("models"), wanted.get("models"))
    before, after = ({key: value for key, value in one.items() if key != "models"} for one in (found, wanted))
    differences = [*models, *_differences(before, after)]
    if differences:
        shown = "; ".join(differences[:6]) + (f"; and {len(differences) - 6} more" if len(differences) > 6 else "")
        raise RunDirError(
            f"the run directory '{store.run_dir}' belongs to another configuration: {shown}; "
            "set another name=..., or start anew beside it with --fresh"
        )


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _model_differences(found: Any, wanted: Any) -> Iterator[str]:
    """Models that came or went, and files of models that changed."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        yield from _differences(found, wanted, "models")
        return
    for path in dict.fromkeys([*found, *wanted]):
        before, after = found.get(path), wanted.get(path)
        if before is None or after is None:
            yield f"model '{path}' is {'new' if before is None else 'gone'}"
        elif isinstance(before, dict) and isinstance(after, dict):
            names = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
            if names:
                more = f" and {len(names) - 3} more" if names[3:] else ""
                yield f"models: files of '{path}' changed: {', '.join(names[:3])}{more}"
        else:
            yield from _differences(before, after, f"models.{path}")


def _differences(found: Any, wanted: Any, key: str = "") -> Any:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in dict.fromkeys([*found, *wanted]):
            yield from _differences(found.get(name), wanted.get(name), f"{key}.{name}" if key else name)
    elif found != wanted:
        yield f"{key or 'identity'} was {one_line(repr(found), SHOWN)}, now {one_line(repr(wanted), SHOWN)}"


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
