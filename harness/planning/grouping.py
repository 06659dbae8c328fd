"""Which runs a group is: `click/*` is one for each part that the task has, all else one as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from harness.config.groups import Group, GroupEntry, folder_name
from harness.config.schema import RunConfig
from harness.config.values import check_values
from harness.core.errors import ConfigError, DataError, did_you_mean
from harness.core.escaping import one_line
from harness.core.foreign import blamed_on
from harness.core.task import find_task


@dataclass(frozen=True)
class Member:
    """One run of a group."""

    label: str
    """What tables call it."""
    config: RunConfig


def members_of(group: Group) -> tuple[Member, ...]:
    """The runs of a group in their order.

    Raises:
        ConfigError: a task without parts, no such part, or a name twice.
        DataError: the data that should name the parts cannot be read.
    """
    found = tuple(member for entry in group.entries for member in _members(entry))
    # Two labels may make one folder.
    counts = Counter(member.config.name for member in found)
    twice = [member.label for member in found if counts[member.config.name] > 1]
    if twice:
        raise ConfigError(
            f"tasks names '{one_line(twice[0], 80)}' twice; expected each once, or names of their own: "
            "{config: ..., name: ...}"
        )
    return found


def _members(entry: GroupEntry) -> Iterator[Member]:
    if entry.part is None:
        yield Member(entry.label, entry.config)
        return
    config = entry.config
    task = find_task(config.task.name)
    with blamed_on(f"task '{task.name}': naming its parts", "mend the data or the task", DataError):
        parts = task.parts(config.task) if task.parts is not None else {}
    shown = one_line(f"{entry.label}/{entry.part}", 80)
    if not parts:
        raise ConfigError(
            f"tasks names '{shown}', but '{entry.label}' has no parts; name it without '/', or say where its parts "
            "stand (task.options.parts, task.options.parts_in_name)"
        )
    chosen = [name for name in parts if fnmatchcase(name, entry.part)]
    if not chosen:
        raise ConfigError(f"tasks names '{shown}', which no part is{one_line(did_you_mean(entry.part, parts), 300)}")
    for name in chosen:
        label = f"{entry.label}/{name}"
        own = replace(config, task=parts[name], name=folder_name(label))
        check_values(own)
        yield Member(label, own)
