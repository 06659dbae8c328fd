"""What keys take and where they belong, in words, for messages. Refuses to know what was given."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from harness.config.schema import RunConfig

WORDS = {
    "int": "a whole number",
    "int | None": "a whole number or null",
    "str": "text",
    "str | None": "text or null",
    "bool": "true or false",
    "float": "a number",
    "float | None": "a number or null",
    "list[str]": "a list of texts such as [a, b]",
    "list[int]": "a list of whole numbers such as [0, 4]",
}
"""Types of the sections' fields."""


def elsewhere(key: str) -> str:
    """A hint where another section, or the configuration itself, has a key of that name."""
    named = []
    for section in dataclasses.fields(RunConfig):
        kind: Any = section.default_factory
        if not dataclasses.is_dataclass(kind):
            named += [key] if section.name == key else []
        elif key in {f.name for f in dataclasses.fields(kind)}:
            named.append(f"{section.name}.{key}")
    return "; did you mean " + " or ".join(f"'{name}'" for name in named) + "?" if named else ""


def expected(key: str) -> str:
    """What a key takes, in words."""
    kind: Any = RunConfig
    names, element = re.sub(r"\[\d+\].*", "", key).split("."), "[" in key
    for name in names:
        fields = {f.name: f for f in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}
        if name not in fields:
            return "a value"
        default = fields[name].default_factory
        kind = default if isinstance(default, type) else str(fields[name].type)
    if not isinstance(kind, str):
        return "keys under it"
    if element and kind.startswith("list["):
        kind = kind.removeprefix("list[").removesuffix("]")
    return WORDS.get(kind, "a value")
