"""Groups: several tasks run by one command. A group names configurations; what else it says goes for all of them.

Refuses to know tasks: which parts `click/*` stands for is found by `harness.planning.grouping`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config.loading import config_of, load_values
from harness.config.schema import RunConfig
from harness.core.errors import ConfigError, did_you_mean
from harness.core.escaping import one_line
from harness.core.places import SHIPPED, SOURCE
from harness.core.places import found as found_file

OWN_KEYS = ("tasks", "name", "out", "data_root")
"""Keys of a group itself; all others are those of a run."""
_ENTRY = re.compile(r"(?P<config>.+?\.ya?ml|[^/]+)(/(?P<part>.+))?")
_DATA = "data_in"


@dataclass(frozen=True)
class GroupEntry:
    """One line of `tasks`."""

    label: str
    """What tables call it, without its part."""
    part: str | None
    """Which parts of the task, as a pattern such as `*`; None for the task as a whole."""
    config: RunConfig
    """Of its run; where there are parts, of all of them."""


@dataclass(frozen=True)
class Group:
    """Several runs, and where they lie."""

    name: str
    run_dir: str
    """The folder `{out}/{name}`, or its URI; each task's run directory lies in it."""
    entries: tuple[GroupEntry, ...]


def load_group(path: str | Path, overrides: Sequence[str] = ()) -> Group | None:
    """A group from a YAML file; None where it is the configuration of one run.

    Each task's configuration is read first, then come the keys of the group, those of the entry in `tasks`, and the
    overrides; later ones win.

    Args:
        path: YAML file; it is a group where it, or an override, has `tasks`.
        overrides: dotted assignments, of the group's own keys or of keys that go for every task.

    Raises:
        ConfigError: no such configuration, an entry twice, or whatever is wrong with the run of a task.
    """
    values = load_values(path, overrides)
    if "tasks" not in values:
        return None
    listed = values["tasks"]
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"tasks is {one_line(repr(listed), 120)}, expected a list such as [click/*, klue_nli]")
    common = {key: value for key, value in values.items() if key not in OWN_KEYS}
    own = {key: values[key] for key in ("name", "out") if key in values}
    place = config_of({"name": "group", **own})
    rest = [one for one in overrides if one.partition("=")[0].partition(".")[0] not in OWN_KEYS]
    root = values.get("data_root")
    if root is not None and not isinstance(root, str):
        raise ConfigError(f"data_root is {one_line(repr(root), 120)}, expected the folder that holds the tasks' data")
    entries = []
    for number, given in enumerate(listed):
        where = f"tasks[{number}]"
        label, part, below, keys = _read_entry(given, where, Path(found_file(str(path))).parent)
        own_data = below.get("task", {}).get("data_dir", "") if isinstance(below.get("task"), dict) else ""
        if root is not None and str(own_data).startswith(f"{_DATA}/"):
            below = merged(below, {"task": {"data_dir": root.rstrip("/") + str(own_data).removeprefix(_DATA)}})
        whole = merged(merged(below, common), keys)
        try:
            config = config_of(whole | {"name": folder_name(label), "out": place.run_dir}, rest)
        except ConfigError as error:
            raise ConfigError(f"{where} ({label}): {error}") from None
        entries.append(GroupEntry(label, part, config))
    return Group(place.name, place.run_dir, tuple(entries))


def folder_name(label: str) -> str:
    """The name of the run directory of a task or of its part."""
    return label.replace("/", "-")


def merged(below: Mapping[Any, Any], above: Mapping[Any, Any]) -> dict[Any, Any]:
    """Nested keys and values, those above in the place of those below; lists are replaced as a whole."""
    found = dict(below)
    for key, value in above.items():
        is_nested = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if is_nested else value
    return found


def _read_entry(given: Any, where: str, folder: Path) -> tuple[str, str | None, dict[Any, Any], dict[Any, Any]]:
    """Label, part, the configuration's values and the entry's own."""
    keys = dict(given) if isinstance(given, dict) else {"config": given}
    text, name = keys.pop("config", None), keys.pop("name", None)
    match = _ENTRY.fullmatch(text) if isinstance(text, str) else None
    if match is None or not isinstance(name, str | None) or any(key in keys for key in OWN_KEYS):
        raise ConfigError(
            f"{where} is {one_line(repr(given), 120)}, expected a configuration's name such as klue_nli or click/*, or "
            "keys such as {config: klue_nli, name: nli, task: {limit: 100}}"
        )
    path = _place(match["config"], where, folder)
    return name or path.stem, match["part"], load_values(path), keys


def _place(text: str, where: str, folder: Path) -> Path:
    """The file of a configuration: as it is named, beside the group's file, or in `configs`."""
    is_path = text.endswith((".yaml", ".yml"))
    names = [text] if is_path else [f"configs/{text}.yaml", f"{folder}/{text}.yaml"]
    candidates = [Path(found_file(name)) for name in [*names, f"{folder}/{text}"]]
    for path in candidates:
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path
    known = {file.stem for root in (Path(), SHIPPED, SOURCE) for file in (root / "configs").glob("*.yaml")}
    hint = did_you_mean(Path(text).stem, sorted(known)) or "; expected a name in configs, or a YAML file"
    raise ConfigError(f"{where}: no configuration '{one_line(text, 120)}'{hint}")
