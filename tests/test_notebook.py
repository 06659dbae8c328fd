"""The notebook under `examples` runs from its first cell to its last, and is stored without outputs."""

import json
import shutil

import pytest

import harness
from tests.conftest import REPO

NOTEBOOK = REPO / "examples" / "compare_prompts.ipynb"


def code_cells():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_it_holds_no_outputs_and_names_what_there_is():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells())
    sources = ["".join(cell["source"]) for cell in code_cells()]
    for source in sources:
        compile(source, NOTEBOOK.name, "exec")
    line = next(line for source in sources for line in source.splitlines() if line.startswith("from harness import "))
    assert set(line.removeprefix("from harness import ").split(", ")) <= set(harness.__all__)


@pytest.mark.slow
def test_its_cells_run_in_their_order(monkeypatch, capsys):
    monkeypatch.chdir(NOTEBOOK.parent)
    names = {}
    for cell in code_cells():
        exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
    try:
        assert len(names["result"].cells) == 3 * 3 * 3
        assert names["found"].best in capsys.readouterr().out
        assert (names["records"]["document"].str.len() > 0).all()
        assert (names["work"] / "notebook" / "report.html").is_file()
    finally:
        shutil.rmtree(names["work"])
