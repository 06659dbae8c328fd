"""Finds what is registered by name as an entry point, or stands at `module:attribute`: tasks, engines.

Knows groups and names; refuses to know what is registered.
"""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.core.errors import ConfigError, did_you_mean
from harness.core.escaping import one_line
from harness.core.foreign import blamed_on
from harness.core.places import SOURCE


@dataclass(frozen=True)
class Kind:
    """What a group of entry points holds.

    Attributes:
        noun: in messages, such as `task`.
        group: of the entry points.
        example: of a `module:attribute`.
        expected: what stands there, such as `a harness Task`.
        is_right: whether something is that.
    """

    noun: str
    group: str
    example: str
    expected: str
    is_right: Callable[[Any], bool]

    def registered(self) -> dict[str, str]:
        """Name to `module:attribute` of everything registered.

        A source tree that runs without being installed (`ray job submit --working-dir .`) has no
        entry points, so the project file beside the package is read as well.
        """
        found: dict[str, str] = {}
        project = SOURCE / "pyproject.toml"
        if project.is_file():
            with project.open("rb") as file:
                groups = tomllib.load(file).get("project", {}).get("entry-points", {})
            found.update(groups.get(self.group, {}))
        found.update({entry.name: entry.value for entry in installed(self.group, tuple(sys.path))})
        return found

    def find(self, name: str) -> Any:
        """What is registered under a name, or stands at `module:attribute`; what a function there gives.

        Raises:
            ConfigError: no such name, the module cannot be imported, or it holds something else.
        """
        known = self.registered()
        target = known.get(name, name)
        what = f"{self.noun} '{one_line(name, 80)}'"
        if ":" not in target:
            raise ConfigError(f"no {what}{did_you_mean(name, known)} (or give module:attribute)")
        module_name, _, attribute = target.partition(":")
        if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
            raise ConfigError(f"{what} names no module; expected module:attribute, such as {self.example}")
        found = getattr(self._module(what, module_name), attribute, None)
        if found is not None and not self.is_right(found) and callable(found):
            remedy = f"expected {self.expected} or a function giving one"
            with blamed_on(f"{what}: calling '{attribute}'", remedy, ConfigError):
                found = found()
        if not self.is_right(found):
            raise ConfigError(
                f"{what}: '{attribute}' in '{module_name}' is a {type(found).__name__}, expected {self.expected}"
            )
        return found

    def _module(self, what: str, name: str) -> ModuleType:
        try:
            with blamed_on(f"{what}: its module '{name}'", "mend the module", ConfigError):
                return importlib.import_module(name)
        except ConfigError as error:
            if not isinstance(error.__cause__, ImportError):
                raise
            remedy = _hidden(name) or "expected its folder in PYTHONPATH or the current directory"
            raise ConfigError(
                f"{what}: cannot import module '{name}': {one_line(str(error.__cause__), 200)}; {remedy}"
            ) from error.__cause__


@cache
def installed(group: str, path: tuple[str, ...]) -> EntryPoints:
    """What the distributions there register. Each call would read the files of every one of them.

    Args:
        group: of the entry points.
        path: `sys.path` as it is now.
    """
    return entry_points(group=group)


def _hidden(name: str) -> str | None:
    """What to do where a module of the user's has the name of a package that came with this one."""
    top = name.partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None)
    own = SOURCE / top / "__init__.py"
    if file is None or not own.is_file() or Path(file).resolve() == own:
        return None
    return f"'{one_line(file, 160)}' hides the package '{top}' that came with harness; give it another name"
