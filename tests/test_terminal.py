"""Tables on terminals of several widths: no figure is cut off, and what has no place is named."""

import io
import re

import pandas as pd
import pytest
from rich.console import Console

from harness.analysis.cells import over_seeds
from harness.config.loading import load_config
from harness.planning.report import make_report
from harness.reporting.plans import write_plan
from harness.reporting.terminal import new_table, print_table, with_short_names, write_cells

CELLS = pd.DataFrame(
    {
        "model": "ko-tiny",
        "task": "nsmc",
        "template": ["lecture_1", "document_first"],
        "k": [0, 16],
        "seed": [1, 2],
        "n_scored": 50_000,
        "n_attempted": 50_000,
        "n_failed": 0,
        "accuracy": [0.8123, 0.8234],
        "low": 0.8,
        "high": 0.83,
        "macro_f1": 0.8101,
        "predicted_positive_share": 0.481,
        "off_label_mass": 0.026,
    }
)
SEEDS = pd.DataFrame({"k": [16], "n_seeds": [1]})


def printed(width):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, no_color=True, legacy_windows=False)
    write_cells(console, CELLS, SEEDS, "table")
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())


@pytest.mark.parametrize(
    ("width", "left_out"),
    [(140, ""), (90, "off-label"), (80, "off-label, positive"), (70, "off-label, positive, macro F1")],
)
def test_a_narrow_terminal_has_fewer_columns_and_whole_figures(width, left_out):
    text = printed(width)
    assert "…" not in text
    for figure in ("lecture_1", "document_first", "50000/50000", "0.8123", "0.8234", "0.8000-0.8300"):
        assert figure in text
    assert re.search(r"document_first +16 +2 ", text)
    assert ("0.026" in text) == ("off-label" not in left_out)
    assert max(map(len, text.splitlines())) <= width
    note = re.search(r"- not shown for want of width: (.*)", text)
    assert (note[1] if note else "") == left_out


MODELS = ["data_in/models/gemma-3-270m-it-korean-reviews-v2", "data_in/models/EXAONE-4.0-1.2B-instruct-finetuned"]


def whole_words(text, words):
    """Which of these words, or their parts after marks, do not stand in the text as a whole."""
    found = set(re.split(r"[\s|─│]+", text))
    return [word for word in words if word not in found]


def test_several_models_keep_the_interval_and_have_short_whole_names():
    cells = pd.concat([CELLS.assign(model=model) for model in MODELS], ignore_index=True)
    seeds = over_seeds(cells.assign(seed=2, k=16))
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, no_color=True, legacy_windows=False)
    write_cells(console, cells, seeds.assign(n_seeds=2), "table")
    text = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text and "data_in" not in text
    names = ["gemma-3-270m-it-korean-", "reviews-v2", "EXAONE-4.0-1.2B-instruct-", "finetuned", "document_first"]
    assert not whole_words(text, [*names, "0.8123", "0.8000-0.8300"])


def test_names_that_differ_in_their_folders_alone_stay_whole():
    frame = pd.DataFrame({"model": ["a/tiny", "b/tiny", "c/large"]})
    assert with_short_names(frame)["model"].tolist() == ["a/tiny", "b/tiny", "c/large"]
    assert with_short_names(frame[1:])["model"].tolist() == ["tiny", "large"]


def test_k0_has_one_row_under_any_seed_and_no_spread():
    cells = pd.concat([CELLS.assign(seed=[seed, seed + 1], accuracy=[0.81, 0.8 + seed / 100]) for seed in (1, 2)])
    seeds = over_seeds(cells)
    file = io.StringIO()
    write_cells(Console(file=file, width=140), cells.reset_index(drop=True), seeds, "table")
    text = file.getvalue()
    assert re.findall(r"lecture_1 +\| 0 \| *(\w+) ", text) == ["any", "any"]
    assert len(re.findall(r"document_first +\|16 \| *\d ", text)) == 3
    assert re.search(r"lecture_1 +\| 0 +\| +any \|0\.8100 +\| +\| +\| +\|", text)
    assert "highest of 3 figures is too high" in text
    assert "K > 0: this demonstration draw, of the row's seed; compare --by template,k" in text


def test_copies_of_k0_that_differ_stay_apart():
    cells = CELLS.assign(k=0, template="lecture_1", accuracy=[0.8, 0.9])
    file = io.StringIO()
    write_cells(Console(file=file, width=140), cells, over_seeds(cells), "table")
    assert "any" not in file.getvalue()
    assert "demonstration" not in file.getvalue()


def test_of_columns_with_one_title_the_last_goes_first():
    file = io.StringIO()
    console = Console(file=file, width=24, force_terminal=True, no_color=True)
    table = new_table(console)
    for name in ("exact match", "interval", "interval"):
        table.add_column(name, no_wrap=True)
    table.add_row("0.5", "first", "second")
    print_table(console, table, ["interval", "interval"])
    assert "first" in file.getvalue()
    assert "second" not in file.getvalue()


def test_columns_that_may_not_go_stay():
    file = io.StringIO()
    console = Console(file=file, width=26, force_terminal=True, no_color=True)
    table = new_table(console)
    for name in ("template", "first figure", "second figure"):
        table.add_column(name, no_wrap=True)
    table.add_row("t", "1", "2")
    print_table(console, table, ["second figure"])
    assert "first figure" in file.getvalue()
    assert " ".join(file.getvalue().split()).endswith("- not shown for want of width: second figure")


def test_a_plan_at_80_columns_has_whole_words_and_figures():
    report = make_report(load_config("configs/demo.yaml", ["task.limit=5", "grid.seeds=[1]"]))
    file = io.StringIO()
    write_plan(Console(file=file, width=80, force_terminal=True, no_color=True, legacy_windows=False), report)
    text = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).split("\n--- ")[0]
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    wide = io.StringIO()
    write_plan(Console(file=wide, width=200), report)
    words = set(re.split(r"[\s|]+", wide.getvalue()))
    found = re.split(r"\s+", text.split("- not shown")[0])
    assert [word for word in found if word not in words and not re.fullmatch("─*", word)] == []
    assert "longest/context" in text and "not shown for want of width: lengths" in text
