"""Options that belong to one task, `task.options`: read into the dataclass by which the task describes them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from harness.core.errors import ConfigError, did_you_mean
from harness.core.escaping import one_line
from harness.core.task import Task

if TYPE_CHECKING:
    from harness.config.schema import TaskConfig

Options = TypeVar("Options")


def read_options(config: TaskConfig, kind: type[Options]) -> Options:
    """The options of a task, checked.

    Args:
        config: its `options` are a mapping, or were read before.
        kind: frozen dataclass whose fields are the options, with defaults.

    Raises:
        ConfigError: unknown option (with the nearest name), wrong type or value.
    """
    if isinstance(config.options, kind):
        return config.options
    given = _mapping(config)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in given:
        if name not in names:
            hint = did_you_mean(str(name), names)
            raise ConfigError(f"task '{config.name}' has no option 'task.options.{one_line(str(name), 80)}'{hint}")
    from pydantic import TypeAdapter, ValidationError  # slow to import, and only runs need it

    try:
        return TypeAdapter(kind).validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"] if str(part) in names or isinstance(part, int))
        found = one_line(repr(given.get(str(first["loc"][0]))) if first["loc"] else repr(given), 80)
        expected = first["msg"][:1].lower() + first["msg"][1:]
        if isinstance(first["input"], bool):
            expected += " (YAML reads a bare yes, no, on or off as true or false: put it in quotes)"
        raise ConfigError(f"task.options.{where} is {found}: {expected}") from None


def configured(task: Task, config: TaskConfig) -> tuple[Task, TaskConfig]:
    """A task as its options make it, and the configuration with these options read and completed.

    Raises:
        ConfigError: as `read_options`; or options for a task that has none.
    """
    if task.options is None:
        if given := _mapping(config):
            raise ConfigError(
                f"task '{config.name}' has no options, but task.options names {', '.join(map(str, given))}; drop them"
            )
        return task, config
    config = dataclasses.replace(config, options=read_options(config, task.options))
    if task.of is None:
        return task, config
    task, options = task.of(config)
    return task, dataclasses.replace(config, options=options)


def _mapping(config: TaskConfig) -> Mapping[Any, Any]:
    if not isinstance(config.options, Mapping):
        raise ConfigError(
            f"task.options is {one_line(repr(config.options), 80)}, expected keys and values of task '{config.name}'"
        )
    return config.options
