"""What is shown, logged and stored: no secret of an address, no markup, no steering, no formula."""

import io
import json
import logging
import re
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from harness import run
from harness.core.escaping import csv_text, one_line, visible
from harness.reporting.console import SafeFormatter, say, write
from harness.reporting.export import file_stems
from harness.reporting.terminal import markdown, new_table
from harness.running import driver
from tests.conftest import REPO
from tests.simulated_runs import classified_run
from tests.told import call, refused

SECRET = "HUNTER2"
PROMISES = (REPO / "docs" / "security.md").read_text(encoding="utf-8").partition("## Which test keeps")[2]
ADDRESS = f"s3://KEY:{SECRET}/x@bucket/runs?secret_key={SECRET}"


def texts_below(folder):
    """Every file's content; parquet also unpacked."""
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            yield path, path.read_bytes()
            if path.suffix == ".parquet":
                table = pq.read_table(path)
                yield path, f"{table.to_pylist()}{table.schema.metadata}".encode()


def test_a_planted_secret_is_in_no_output_and_no_file_of_a_run(make_config, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["harness", "run", f"out={ADDRESS}"])
    whole = driver.prepare

    def with_a_note(config):
        logging.getLogger("harness.core.task").warning("read from %s", ADDRESS)
        return whole(config)

    monkeypatch.setattr(driver, "prepare", with_a_note)
    grid = {"templates": ["lecture_1"], "k": [0], "seeds": [1]}
    config = make_config(out=str(tmp_path), name="r", task={"limit": 2}, grid=grid)
    run(config)
    logging.getLogger("harness").handlers.clear()
    told = [call(verb, tmp_path / "r") for verb in ("show", "status", "report")]
    out, err = capfd.readouterr()
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["sessions"][0]["command"] == "harness run out=s3://***@bucket/runs?secret_key=***"
    shown = out + err + "".join(t.out + t.err for t in told)
    assert SECRET not in shown
    assert [path for path, content in texts_below(tmp_path) if SECRET.encode() in content] == []


@pytest.mark.parametrize("verb", ["run", "plan", "prompts", "audit"])
def test_a_secret_on_the_command_line_is_refused_unseen_by_every_verb(verb):
    told = call(verb, "configs/demo.yaml", f"out={ADDRESS}")
    refused(told, "out holds a secret")
    assert SECRET not in told.out + told.err


@pytest.mark.parametrize("verb", ["show", "status", "compare", "calibrate", "report", "export"])
def test_a_secret_in_the_name_of_a_run_directory_is_refused_unseen(verb):
    told = call(verb, ADDRESS)
    refused(told, "holds a secret")
    assert SECRET not in told.out + told.err


def test_log_lines_hold_neither_secrets_nor_what_steers_a_terminal():
    record = logging.LogRecord("harness", logging.INFO, "", 0, "%s \x1b[31m\u202e\nnext", (ADDRESS,), None)
    assert SafeFormatter("%(message)s").format(record) == (
        "s3://***@bucket/runs?secret_key=*** \\u001b[31m\\u202e\nnext"
    )


NAMES = ["[red]x[/red]", "x[/]", "[link=http://a]b", ":smile:", "a\x1b[31mb", "a\u202eb", "a\x9bb"]


@pytest.mark.parametrize("name", NAMES)
def test_names_in_tables_and_prose_are_text(name):
    console = Console(file=io.StringIO(), width=200)
    table = new_table(console, name)
    table.add_column(name)
    table.add_row(name)
    console.print(table)
    say(console, name)
    write(console, markdown(pd.DataFrame({name: [name]})))
    assert console.file.getvalue().count(visible(name)) == 6
    assert not {"\x1b", "\u202e", "\x9b"} & set(console.file.getvalue())


@pytest.mark.parametrize("name", NAMES[:4])
@pytest.mark.parametrize("fmt", ["table", "csv", "md", "json"])
def test_runs_with_odd_template_names_are_shown_and_compared(tmp_path, name, fmt):
    path = classified_run(tmp_path / "run", ["가"] * 12, {(name.replace("/", "|"), 0): 0.6, ("plain", 0): 0.7})
    for verb in ("show", "compare", "calibrate"):
        told = call(verb, path, "--format", fmt)
        assert told.status == 0, told.err
    assert call("report", path).status == 0


def test_a_run_whose_template_is_named_like_markup_finishes(tmp_path):
    own = tmp_path / "t.yaml"
    template = {"query": "{document} 감정:", "labels": [" 부정", " 긍정"]}
    own.write_text(yaml.safe_dump({"x[/]": template}, allow_unicode=True), encoding="utf-8")
    told = call(
        "run", "configs/demo.yaml", "cluster.address=inline", f"out={tmp_path}", "task.limit=2", "grid.k=[0]",
        "grid.seeds=[1]", f"task.templates_file={own}", "grid.templates=['x[/]']",
    )  # fmt: skip
    assert told.status == 0 and "x[/]" in told.out, told.err


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", '=HYPERLINK("http://a")'])
def test_text_cells_of_csv_are_no_formulas_and_numbers_stay(cell):
    lines = csv_text(pd.DataFrame({"name": [cell], "value": [-1.5], cell: [1]})).splitlines()
    assert lines[1].lstrip('"').startswith("'") and lines[1].endswith("-1.5,1")
    assert "'" in lines[0]


def test_exported_cells_never_share_a_file():
    keys = [
        ("m", "t", name, k, 1) for name in ("a/b", "a_b", "a b", "A_B", "가", "나" * 200, "나" * 201) for k in (0, 4)
    ]
    names = file_stems(keys)
    assert len({name.casefold() for name in names}) == len(names)
    assert all("/" not in name and len(name.encode()) < 255 for name in names)
    assert file_stems([("m", "t", "a", 0, 1)]) == ["t-m-a-k0-seed1"]


def test_a_long_line_keeps_its_beginning_and_its_remedy():
    line = one_line("found " + "x" * 5000 + "; set another", 300)
    assert len(line) <= 300 and line.startswith("found ") and line.endswith("; set another")


def test_the_tests_that_keep_the_promises_exist():
    files = {path.name: path.read_text(encoding="utf-8") for path in REPO.glob("tests/**/test_*.py")}
    rows = [row for row in PROMISES.splitlines() if row.startswith("| ")][1:]
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)?(?:::(test_\w+))?`", row.split("|")[2])
        assert named, row
        file = ""
        for name, function in named:
            file = name or file
            assert file in files, row
            assert not function or f"def {function}(" in files[file], f"{file} has no {function}"
    assert len(rows) > 20
