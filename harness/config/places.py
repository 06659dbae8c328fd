"""Where the files are that a configuration names: the home directory behind `~`, and what came with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.config.values import PATHS
from harness.core.errors import ConfigError
from harness.core.escaping import one_line
from harness.core.places import found as found_file


def find_files(values: dict[Any, Any]) -> None:
    """Find files: a leading `~` is the home directory, and what is not there may have come with the package.

    Args:
        values: all of a configuration, changed in place.

    Raises:
        ConfigError: the home directory is not known.
    """
    for path in PATHS:
        *above, key = path.split(".")
        section = values
        for name in above:
            section = section[name]
        value = section[key]
        if isinstance(value, list):
            section[key] = [expanded(path, one) for one in value]
        else:
            section[key] = expanded(path, value)


def expanded(key: str, value: Any) -> Any:
    """A path with its home directory and where it is found; what is no text stays.

    Args:
        key: of the configuration.
        value: as it is given.

    Raises:
        ConfigError: the home directory is not known.
    """
    if not isinstance(value, str):
        return value
    if not value.startswith("~"):
        return found_file(value) if key != "out" else value
    try:
        return str(Path(value).expanduser())
    except (RuntimeError, ValueError):
        raise ConfigError(
            f"{key} is {one_line(repr(value), 80)}, whose home directory is not known; expected a path"
        ) from None
