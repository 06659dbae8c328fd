"""Which code judged: a hash of the modules in which a user's task stands, whatever their comments and layout.

What a task loads is compared sample by sample when a run goes on; how it scores stands in its code alone.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable

from harness.core.hashing import content_hash
from harness.core.task import Task

OWN = ("harness", "tasks")
"""Packages that come with this one: their tasks raise `Task.version`."""


def code_of(task: Task) -> str | None:
    """The hash of a task's own modules, behind the version of Python that read them; None where they are not to be had.

    Args:
        task: of the user.
    """
    functions = (task.load, task.score, task.shorten, task.of, *task.metrics.values(), *task.answer_metrics.values())
    names = sorted({str(getattr(function, "__module__", None)) for function in functions if function is not None})
    meanings = []
    for name in names:
        module = sys.modules.get(name)
        if module is None or name.partition(".")[0] in OWN:
            continue
        try:
            meanings.append([name, _meaning(inspect.getsource(module))])
        except (OSError, TypeError, SyntaxError):
            continue
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{version}:{content_hash(meanings)}" if meanings else None


def n_codes(codes: Iterable[str | None]) -> int:
    """How many different codes there are, as far as one version of Python has read them."""
    by_python: dict[str, set[str]] = {}
    for code in codes:
        if code:
            by_python.setdefault(code.partition(":")[0], set()).add(code)
    return max(map(len, by_python.values()), default=0)


def _meaning(source: str) -> str:
    """A module without comments, layout and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                body[:1] = []
    return ast.dump(tree)
