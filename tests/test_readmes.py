"""The two READMEs say the same: commands, figures, tables."""

import re

import pytest

from tests.conftest import REPO

ENGLISH, KOREAN = ((REPO / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md"))


def commands(text):
    """Lines of indented blocks, without their remarks."""
    lines = re.findall(r"^    (\S.*)$", text, re.M)
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines]


def shell_commands(text):
    return {line for line in commands(text) if re.match(r"(\.venv/bin/)?(make|harness|ray|python3?) ", line)}


def tables(text):
    """Rows of cells of each table."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    return [[[cell.strip() for cell in row.strip("|").split(" | ")] for row in block.splitlines()] for block in blocks]


def section(text, heading):
    return text.split(heading)[1].split("\n## ")[0]


def figures(text):
    return sorted(re.findall(r"\d+(?:[.,]\d+)*", text.replace("~", " ").replace(" to ", " ")))


def test_they_name_the_same_commands():
    assert shell_commands(ENGLISH) == shell_commands(KOREAN)


@pytest.mark.parametrize("language", ["english", "korean"])
def test_each_links_to_the_other_on_top(language):
    text, other = (ENGLISH, "README.ko.md") if language == "english" else (KOREAN, "README.md")
    assert f"({other})" in "\n".join(text.splitlines()[:4])


def test_tables_of_speed_and_of_peers_have_the_same_shape_and_figures():
    for one, other in zip(tables(ENGLISH)[:2], tables(KOREAN)[:2], strict=True):
        assert [len(row) for row in one] == [len(row) for row in other]
        assert [figures(" ".join(row[1:])) for row in one[1:]] == [figures(" ".join(row[1:])) for row in other[1:]]


def test_verbs_have_the_same_names_and_examples():
    rows = {
        text: [(row[0], row[-1]) for row in table[2:]]
        for text in (ENGLISH, KOREAN)
        for table in tables(text)
        if table[0][0] in ("verb", "명령") and "`run`" in table[2][0]
    }
    assert rows[ENGLISH] == rows[KOREAN]


def test_the_study_has_the_same_figures():
    one, other = section(ENGLISH, "## A study, and what it says"), section(KOREAN, "## 연구 한 편과 그 결과")
    decimals = [sorted(re.findall(r"\d+\.\d+", text)) for text in (one, other)]
    assert decimals[0] == decimals[1]
    assert len(decimals[0]) > 10


def test_prompt_or_label_has_the_figures_of_its_page():
    one, other = section(ENGLISH, "## Prompt or label?"), section(KOREAN, "## 프롬프트인가 라벨인가")
    mine, theirs = (tables(text)[0] for text in (one, other))
    assert mine == theirs and len(mine) == 6
    page = section((REPO / "docs" / "references.md").read_text(), "### On real reviews")
    told = [[cell.split(" (")[0] for cell in row] for row in tables(page)[0]]
    assert mine[2:] == told[2:6]
    assert re.findall(r"0\.\d+", one) == re.findall(r"0\.\d+", other)
    assert commands(one) == commands(page) == commands(other)


def test_both_list_every_document():
    listed = []
    for text in (ENGLISH, KOREAN):
        rows = [row for table in tables(text) for row in table if re.fullmatch(r"\[.*\]\(.*\)", row[0])]
        listed.append({re.search(r"\((.*)\)", row[0])[1] for row in rows} - {"README.md", "README.ko.md"})
    assert listed[0] == listed[1]
    assert {f"docs/{page.name}" for page in (REPO / "docs").glob("*.md")} <= listed[0]
