"""Shell commands that the pages print: where they stand, and what can be said of one without running it."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer

from harness.cli import app
from harness.config.groups import load_group
from harness.config.loading import load_config
from tests.conftest import REPO

PAGES = [
    "README.md", "README.ko.md", "CONTRIBUTING.md", "configs/README.md", "clusters/README.md",
    *sorted(path.relative_to(REPO).as_posix() for path in (REPO / "docs").glob("*.md")),
    *sorted(path.relative_to(REPO).as_posix() for path in (REPO / "data_in").rglob("README.md")),
]  # fmt: skip
PROGRAMS = {
    "chmod", "clusters/submit.sh", "docker", "export", "git", "harness", "kubectl", "make", "mkdir", "pip", "pytest",
    "python", "python3", "ray", "sbatch", "ssh", "touch", "umask", "wandb",
}  # fmt: skip
SHELL = {"bash", "console", "sh", "shell"}
UsageError: type[Exception] = typer.BadParameter.__base__
"""Of the parser that typer brings along: words that a verb does not take."""


@dataclass(frozen=True)
class Command:
    """One command of a page, without its remark; a line that goes on is one."""

    text: str
    in_block: bool
    """Whether it stands in a block of its own, not inside a sentence or a table."""

    @property
    def words(self) -> list[str]:
        """As a shell splits it, without the variables before it."""
        words = shlex.split(self.text)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        return [words[0].removeprefix(".venv/bin/"), *words[1:]] if words else []

    @property
    def program(self) -> str:
        """The first word; `harness` for the ways to call it as a module."""
        words = self.words
        return "harness" if words[:3] in (["python", "-m", "harness"], ["python3", "-m", "harness"]) else words[0]

    @property
    def arguments(self) -> list[str]:
        """What follows the program."""
        return self.words[3 if self.program == "harness" and self.words[0] != "harness" else 1 :]

    @property
    def variables(self) -> dict[str, str]:
        """What is set in front of it."""
        return dict(re.findall(r"(?:^|\s)([A-Z_]+)=(\S+)(?=.*\s)", self.text.split(self.words[0])[0]))


def parts(text: str) -> tuple[str, list[list[str]], list[tuple[str, str]]]:
    """Prose, indented blocks and fenced blocks with their language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    blocks = re.findall(r"(?:^|\n)\n((?:    .*(?:\n|$))+)", prose)
    return prose, [[line[4:] for line in block.rstrip("\n").split("\n")] for block in blocks], fenced


def is_command(line: str) -> bool:
    """Whether a line begins as a command does: a known program with words behind it."""
    bare = re.sub(r"^(?:[A-Z_]+=(?:\"[^\"]*\"|'[^']*'|\S+)\s+)*", "", line)
    return bare.split(" ")[0].removeprefix(".venv/bin/") in PROGRAMS and " " in bare.strip()


def of_block(lines: list[str]) -> list[Command]:
    """Commands of one block."""
    whole = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).split("\n")
    bare = [re.sub(r"\s+#.*", "", line).strip() for line in whole]
    return [Command(part, True) for line in bare for part in line.split(" && ") if part and is_command(part + " ")]


def commands(page: str) -> list[Command]:
    """All commands of a page in their order: those of blocks, then those within the text."""
    prose, blocks, fenced = parts((REPO / page).read_text(encoding="utf-8"))
    found = [command for lines in blocks for command in of_block(lines)]
    for language, body in fenced:
        if language in SHELL:
            found += of_block(body.rstrip("\n").split("\n"))
    spans = [span.replace("\\|", "|") for span in re.findall(r"`([^`\n]+)`", prose)]
    found += [Command(span, False) for span in spans if is_command(span)]
    first: dict[str, Command] = {}
    for command in found:
        first.setdefault(command.text, command)
    return list(first.values())


def other_lines(page: str) -> set[str]:
    """How lines begin that are no command: of each block without any the first, else every one."""
    _, blocks, fenced = parts((REPO / page).read_text(encoding="utf-8"))
    found = set()
    for lines in [*blocks, *(body.rstrip("\n").split("\n") for language, body in fenced if language in SHELL)]:
        whole = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).split("\n")
        odd = [line for line in whole if line.strip() and not line.startswith("#") and not of_block([line])]
        found |= {line.split()[0] for line in (odd if of_block(lines) else lines[:1])}
    return found


@cache
def parser() -> Any:
    """The command line's own."""
    return typer.main.get_command(app)


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What a verb would be given.

    Raises:
        UsageError: it would refuse the words.
    """
    command, rest, parent = parser(), list(arguments), None
    while hasattr(command, "resolve_command"):
        context = typer.Context(command, info_name=command.name, parent=parent)
        parent = context
        _, command, rest = command.resolve_command(context, rest)
    params: dict[str, Any] = command.make_context(command.name, rest, parent=parent).params
    return params


def check_harness(arguments: list[str], folder: Path) -> None:
    """The verb takes the words, its configuration is there, and every key is one.

    Args:
        arguments: behind `harness`.
        folder: the current one; configurations are relative to it.
    """
    if arguments == ["--install-completion"]:
        return  # parsing it installs
    given = parsed(arguments)
    if given.get("config") is not None:
        assert (folder / given["config"]).is_file(), f"no {given['config']}"
        path, overrides = folder / given["config"], given.get("overrides") or ()
        assert load_group(path, overrides) or load_config(path, overrides)


def check_mention(arguments: list[str]) -> None:
    """A verb that a sentence names: it exists, and so do its options."""
    words = arguments[: arguments.index("|")] if "|" in arguments else arguments
    if not words:
        return
    try:
        parsed([word for word in words if word != "..."])
    except UsageError as error:
        assert type(error).__name__ in ("MissingParameter", "BadOptionUsage"), str(error)


def check_make(words: list[str]) -> None:
    """The Makefile has the targets and the variables."""
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    for word in words:
        if "=" in word:
            assert f"$({word.split('=')[0]})" in makefile, f"the Makefile has no variable {word}"
    done = subprocess.run(["make", "-n", *words], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check_script(words: list[str]) -> None:
    """A module or script of the repository that knows the options."""
    if words[0] == "-m" and words[1] in ("venv", "pytest"):
        return
    if words[0] == "-m":
        spec = importlib.util.find_spec(words[1])
        assert spec is not None, f"no module {words[1]}"
        path = Path(spec.origin or "")
        path = path.with_name("__main__.py") if path.name == "__init__.py" else path
        words = words[1:]
    else:
        path = REPO / words[0]
    source = path.read_text(encoding="utf-8")
    for word in words[1:]:
        if word.startswith("--") and word != "--help":
            assert f'"{word.split("=")[0]}"' in source, f"{path.name} has no option {word}"


def check_files(words: list[str]) -> None:
    """Files of the repository that are named are there."""
    for word in words:
        path = word.split("::")[0]
        if re.match(r"(clusters|configs|docs|examples|tasks|tests)/", path):
            assert (REPO / path).exists(), f"no {path}"


def check_extras(words: list[str]) -> None:
    """Extras of the package that are to be installed are declared."""
    declared = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    for word in words:
        for extra in re.findall(r"^(?:prompt-grid-harness|\.)\[([\w-]+)\]$", word):
            assert re.search(rf"^{extra} = \[", declared, re.M), f"no extra {extra}"
