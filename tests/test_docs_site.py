"""`make docs`: every page is built, and every link and anchor between pages holds."""

import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPO

BUILD = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file"]
KINDS = {
    "page": "[gone](no_such_page.md)",
    "anchor": "[gone](statistics.md#no-such-heading)",
    "anchor of this page": "[gone](#no-such-heading)",
    "picture": "![gone](images/no_such_picture.png)",
}


def pages():
    """What `make docs` copies, read from the Makefile."""
    rule = (REPO / "Makefile").read_text(encoding="utf-8").split("PAGES = ")[1].split("\n\n")[0].replace("\\\n", " ")
    named, _, patterns = rule.partition("$(wildcard ")
    for name in named.split():
        yield REPO / name
    for pattern in patterns.rstrip(")").split():
        yield from REPO.glob(pattern)


def build(folder, more=None):
    source = folder / "data_out" / "site_source"
    for page in pages():
        target = source / page.relative_to(REPO)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(page, target)
    shutil.copy(REPO / "mkdocs.yml", folder)
    if more:
        with (source / "docs" / "report.md").open("a", encoding="utf-8") as file:
            file.write(f"\n{more}\n")
    command = [*BUILD, str(folder / "mkdocs.yml")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_site_is_built_without_a_warning(tmp_path):
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "data_out" / "site"
    assert (site / "index.html").is_file()
    assert "fonts.googleapis.com" not in (site / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_to_nothing_fails(kind, tmp_path):
    assert build(tmp_path, KINDS[kind]).returncode == 1
