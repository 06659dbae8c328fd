"""Text files that users write, read with their mistakes in mind."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml

from harness.core.errors import UserError
from harness.core.escaping import one_line
from harness.core.foreign import reason

MOST_BYTES = 2**26
"""Of a YAML file: more than anybody writes."""
MOST_VALUES = 1_000_000
"""Of a YAML file, those of aliases counted each time: nine times nine levels of them stand for 400 million."""


def read_bytes(path: str | Path, what: str, expected: str, kind: type[UserError], most: int = MOST_BYTES) -> bytes:
    """All of a file that a user names.

    Args:
        path: the file.
        what: what it should be, as messages call it, such as `configuration file`.
        expected: what to give instead, such as `a YAML file`.
        kind: the error to raise.
        most: bytes.

    Raises:
        UserError: of the kind; not there, no regular file, too large, or not to be read.
    """
    shown = one_line(str(path), 160)
    try:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode) and str(path) != "/dev/null":
            raise kind(f"the {what} '{shown}' is no file; expected {expected}")
        if found.st_size > most:
            raise kind(f"the {what} '{shown}' has {found.st_size:,} bytes; expected {expected} of at most {most:,}")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise kind(f"no {what} '{shown}'; expected {expected}") from None
    except (OSError, ValueError) as error:
        raise kind(
            f"the {what} '{shown}' cannot be read: {reason(error)}; expected {expected} that you may read"
        ) from None


def read_text(path: str | Path, what: str, expected: str, kind: type[UserError], most: int = MOST_BYTES) -> str:
    """The text of a file that a user names, without a byte order mark; see `read_bytes`.

    Raises:
        UserError: of the kind; as there, or not UTF-8.
    """
    try:
        return read_bytes(path, what, expected, kind, most).decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        shown = one_line(str(path), 160)
        raise kind(f"the {what} '{shown}' cannot be read: {reason(error)}; save it as UTF-8") from None


def yaml_fault(error: Exception) -> str:
    """Where a YAML text is broken and how, without what it says there: that may be a secret."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        return f"{place}{one_line(error.problem or error.context or 'it cannot be parsed', 160)}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = re.sub(r"\s*(full_key|object_type|reference_type)[:=]\s*\S*", "", str(error))
    return one_line(text.replace('in "<unicode string>", ', "").replace('in "<file>", ', ""), 200)


class _OnceLoader(yaml.SafeLoader):
    """Plain data only, and no key of a mapping twice: the first would vanish without a word."""


def _construct_mapping(loader: _OnceLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' comes twice", problem_mark=key.start_mark)
            seen.add(key.value)
    loader.flatten_mapping(node)
    found: dict[Any, Any] = yaml.SafeLoader.construct_mapping(loader, node, deep=True)
    return found


_OnceLoader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, those of aliases each time they are named.

    Args:
        node: from the parser.
        known: id of a node to its values; 0 while they are counted.

    Raises:
        yaml.MarkedYAMLError: more than anybody writes, or a value that holds itself.
    """
    if id(node) not in known:
        known[id(node)], count = 0, 1
        for child in node.value if isinstance(node, yaml.CollectionNode) else ():
            count += sum(_values(one, known) for one in (child if isinstance(child, tuple) else (child,)))
        known[id(node)] = count
    if not 0 < known[id(node)] <= MOST_VALUES:
        problem = f"aliases make it more than {MOST_VALUES:,} values" if known[id(node)] else "a value holds itself"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return known[id(node)]


def _load(text: str) -> Any:
    loader = _OnceLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _values(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def parse_yaml(text: str, subject: str, kind: type[UserError]) -> Any:
    """Plain data of a YAML text.

    Args:
        text: of one document.
        subject: how messages name it, such as `templates file 'x.yaml'`.
        kind: the error to raise.

    Raises:
        UserError: of the kind; naming line and column, and what is wrong there.
    """
    try:
        return _load(text)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise kind(f"{subject} cannot be read: not valid YAML, {yaml_fault(error)}; mend it there") from None
