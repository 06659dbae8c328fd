"""The messages that docs/troubleshooting.md explains are those of the code."""

import ast
import re
from functools import cache

import pytest

from tests.conftest import REPO

PAGE = (REPO / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
VARIES = "\0"
"""In place of what a message fills in."""


def quoted():
    """The messages of the page's tables, `...` for what differs."""
    rows = re.findall(r"^\| (`.*?`+) \| ", PAGE, re.M)
    return [re.sub(r"^(`+) ?(.*?) ?\1$", r"\2", row) for row in rows]


def as_written(node):
    """A text of the code as one line; None for other nodes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(\.\d+)?[sdf]|\{\}", VARIES, node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [as_written(part) if isinstance(part, ast.Constant) else VARIES for part in node.values]
        return "".join(part or "" for part in parts)
    return None


@cache
def texts():
    """Every text of the code, docstrings of modules, classes and functions left out."""
    found = set()
    for folder in ("harness", "tasks"):
        for path in (REPO / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            said = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(node.body[0], ast.Expr)
            }
            found |= {as_written(node) for node in ast.walk(tree) if id(node) not in said}
    return found - {None}


def is_said(message):
    literals = [re.escape(part) for part in message.split("...")]
    return any(re.search("[^\n]*".join(literals), text) for text in texts())


def test_the_page_quotes_messages():
    assert len(quoted()) > 60
    assert len(set(quoted())) == len(quoted())
    assert all(len(message.replace("...", "")) > 12 for message in quoted())


def test_quoted_messages_are_those_of_the_code():
    assert [message for message in quoted() if not is_said(message)] == []


@pytest.mark.parametrize("message", ["unknown configuration key of '...'", "names ... field twice in a row"])
def test_other_words_are_found_out(message):
    assert not is_said(message)
