"""Cells of two kinds: prompts, and references, which have no template. Both stand in one table."""

import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from harness.analysis.calibrate import calibrate
from harness.analysis.cells import over_seeds
from harness.analysis.compare import compare
from harness.analysis.paired import compare_pairs
from harness.analysis.strategies import every_cell
from harness.analysis.summary import summarise
from harness.analysis.table import value_table
from harness.planning.units import Cell
from harness.reporting.report.build import write_report
from harness.reporting.tracking.charts import BEST, charts, strategies
from harness.reporting.tracking.run import tell_cells
from harness.results.parts import cells_of
from harness.results.records import load_records
from harness.results.schema import SCHEMA
from harness.results.store import RunStore
from tests.simulated_runs import MODEL, classified_run, sample_ids, statistics

N = 120
ENCODER, TFIDF = "encoder", "tfidf"
BIG = 2**53 + 1
"""A seed that floats cannot hold."""


def add_reference(path, name, k, seed, share, rng):
    """A part with one cell of a reference."""
    gold = np.arange(N) % 2
    predicted = np.where(rng.random(N) < share, gold, 1 - gold)
    logs = np.log(np.where(predicted[:, None] == [0, 1], 0.75, 0.25))
    given = {
        "model": [name] * N, "task": ["nsmc"] * N, "k": [k] * N, "seed": [seed] * N, "sample_id": sample_ids(N),
        "gold": gold, "prediction": predicted, "label_logprobs": logs.tolist(), "n_prompt_tokens": [12] * N,
    }  # fmt: skip
    arrays = [pa.array(given[f.name], f.type) if f.name in given else pa.nulls(N, f.type) for f in SCHEMA]
    RunStore(path).write_part(f"{name}-{k}-{seed}", pa.table(arrays, schema=SCHEMA), statistics(N), {k: f"{name}{k}"})


@pytest.fixture
def run_dir(tmp_path):
    path = classified_run(
        tmp_path / "run", [f"문서 {i}" for i in range(N)], {("a", 0): 0.6, ("a", 4): 0.7, ("b", 4): 0.65}
    )
    rng = np.random.default_rng(3)
    add_reference(path, ENCODER, None, None, 0.9, rng)
    for k in (50, 200):
        for seed in (1, BIG):
            add_reference(path, TFIDF, k, seed, 0.75, rng)
    store = RunStore(path)
    manifest = store.read_json("manifest.json")
    manifest["references"] = [ENCODER, TFIDF]
    store.write_json("manifest.json", manifest)
    return path


def test_records_of_references_have_no_template_and_keep_large_seeds(run_dir):
    records = load_records(run_dir)
    references = records[records["template"].isna()]
    assert len(references) == 5 * N
    assert set(references["model"]) == {ENCODER, TFIDF}
    came_trained = references[references["model"] == ENCODER]
    assert came_trained["k"].isna().all() and came_trained["seed"].isna().all()
    assert set(references["seed"].dropna()) == {1, BIG}
    assert len(records) == len(references) + 6 * N, "prompts of K=0 under both seeds, those of K=4 under each"
    assert records["model"].is_monotonic_increasing


def test_a_part_says_of_which_k_its_records_are_or_that_they_have_none(run_dir):
    found = [cells_of(RunStore(run_dir).read_part(part)) for part in (f"{ENCODER}-None-None", f"{TFIDF}-50-1")]
    assert found == [{None: "encoderNone"}, {50: "tfidf50"}]


def test_records_without_a_template_are_left_out_of_a_run_that_has_no_references(run_dir, caplog):
    store = RunStore(run_dir)
    manifest = store.read_json("manifest.json")
    del manifest["references"]
    store.write_json("manifest.json", manifest)
    assert load_records(run_dir)["template"].notna().all()
    assert "its column 'template' has empty places" in caplog.text


def test_cells_of_both_kinds_come_in_the_order_of_the_run(run_dir):
    cells = summarise(run_dir)
    names = cells[["model", "template", "k", "seed"]].astype(object).where(lambda frame: frame.notna(), None)
    assert names.to_numpy().tolist() == [
        *([MODEL, template, k, seed] for template, k in (("a", 0), ("a", 4), ("b", 4)) for seed in (1, 2)),
        [ENCODER, None, None, None],
        *([TFIDF, None, k, seed] for k in (50, 200) for seed in (1, BIG)),
    ]
    references = cells[cells["template"].isna()]
    assert references["accuracy"].between(0, 1).all() and (references["n_scored"] == N).all()
    assert references["greedy_accuracy"].isna().all(), "a reference generates no token that could be right"
    assert cells.loc[cells["template"].notna(), "greedy_accuracy"].notna().all()


def test_seeds_of_trained_references_are_averaged_and_those_that_came_trained_stay(run_dir):
    seeds = over_seeds(summarise(run_dir))
    counts = {
        (row["model"], None if pd.isna(row["k"]) else row["k"]): row["n_seeds"] for row in seeds.to_dict("records")
    }
    assert counts[ENCODER, None] == 1 and counts[TFIDF, 50] == counts[TFIDF, 200] == 2


def test_every_paired_test_works_between_the_kinds(run_dir):
    found = compare([run_dir])
    labels = set(found.strategies["label"])
    assert {ENCODER, f"{TFIDF} n=50 seed=1", f"{TFIDF} n=200 seed={BIG}", "a K=0", "b K=4 seed=2"} <= labels
    assert found.best == ENCODER and found.scope == "new samples"
    records = load_records(run_dir)
    cells = {
        ENCODER: records[records["model"] == ENCODER],
        "a K=0": records[(records["k"] == 0).fillna(False) & (records["seed"] == 1).fillna(False)],
    }
    by_hand = {name: (rows["prediction"] == rows["gold"]).astype(float).to_numpy() for name, rows in cells.items()}
    pair = found.pairs[found.pairs["first"].isin(by_hand) & found.pairs["second"].isin(by_hand)].iloc[0]
    assert pair["difference"] == pytest.approx(by_hand[pair["first"]].mean() - by_hand[pair["second"]].mean())
    assert pair["n"] == N and pair["differs"]
    against = compare([run_dir], baseline="a K=0")
    assert len(against.pairs) == len(labels) - 1


def test_references_stand_beside_averaged_prompts_and_are_never_averaged_over(run_dir):
    found = compare([run_dir], by=["template"])
    assert list(found.strategies.loc[found.strategies["label"] == ENCODER, "mean"]) == [
        compare([run_dir]).strategies.set_index("label")["mean"][ENCODER]
    ]
    # The prompts' seeds are 1 and 2; what was trained under others cannot be averaged over these.
    assert sum(label.startswith(TFIDF) for label in found.strategies["label"]) == 0
    assert any(f"{TFIDF} n=50, {TFIDF} n=200: left out" in note for note in found.notes)


def test_the_one_draw_is_said_of_prompts_alone(run_dir):
    table = value_table(load_records(run_dir).query("model == 'encoder' or k == 0"))
    assert not every_cell(table).is_one_draw
    table = value_table(load_records(run_dir).query("model == 'tfidf'"))
    strategies_of_tfidf = every_cell(table)
    assert not strategies_of_tfidf.is_one_draw
    assert compare_pairs(strategies_of_tfidf, None)["n"].tolist() == [N] * 6


def test_what_is_asked_of_templates_leaves_references_out(run_dir):
    found = compare([run_dir])
    assert set(found.sensitivity["model"]) == set(found.variance["model"]) == {MODEL}
    assert set(calibrate(run_dir).cells["model"]) == {MODEL}
    calibrated = compare([run_dir], calibrated=["batch"])
    assert ENCODER in set(calibrated.strategies["label"])
    assert not any(label.startswith(f"{ENCODER} +") for label in calibrated.strategies["label"])
    greedy = compare([run_dir], metric="greedy_accuracy").strategies.set_index("label")
    assert not greedy["is_ranked"][ENCODER] and np.isnan(greedy["mean"][ENCODER]), "never 0"


def test_the_report_shows_both_kinds(run_dir):
    text = write_report([run_dir]).read_text()
    assert ENCODER in text and f"{TFIDF} n=50 seed=1" in text
    assert "nan" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL).lower().split()
    assert "&lt;NA&gt;" not in text and "<NA>" not in text


def test_charts_and_rows_of_wandb_carry_both_kinds(run_dir):
    cells = summarise(run_dir)
    assert {(s.model, s.template, s.k) for s in strategies(cells)} >= {(ENCODER, None, None), (TFIDF, None, 50)}
    against_k, bars, every, against_labels = charts(cells)
    assert [(row[2], row[3]) for row in against_labels.rows] == [
        ("a", 4), ("b", 4), (TFIDF, 50), (BEST, 50), (TFIDF, 200), (BEST, 200)
    ]  # fmt: skip
    level = [row for row in against_labels.rows if row[2] == BEST]
    assert {row[5] for row in level} == {max(row[5] for row in bars.rows if row[1] is not None)}
    assert len(charts(cells[cells["model"] != TFIDF])) == 3
    assert {row[bars.columns.index("label")] for row in bars.rows} >= {ENCODER, f"{TFIDF} n=50", "a K=4"}
    assert all(row[1] is not None for row in (*against_k.rows, *every.rows)), "what has no K is on no axis of K"
    json.dumps([list(chart.rows) for chart in (against_k, bars)])

    rows = []

    class Told:
        def cell_finished(self, row):
            rows.append(row())

    tell_cells(
        Told(), RunStore(run_dir),
        [Cell(ENCODER, "nsmc", None, None, None), Cell(TFIDF, "nsmc", None, 50, BIG), Cell(MODEL, "nsmc", "a", 4, 2)],
        [f"{ENCODER}-None-None", f"{TFIDF}-50-{BIG}", "a-4-2"], {},
    )  # fmt: skip
    assert [(row["model"], row["n_scored"]) for row in rows] == [(ENCODER, N), (TFIDF, N), (MODEL, N)]


@pytest.mark.parametrize("fmt", ["table", "csv", "md", "json"])
def test_show_prints_both_kinds(run_dir, fmt, capsys):
    from harness.cli import app

    with pytest.raises(SystemExit) as end:
        app(["show", run_dir, "--format", fmt])
    printed = capsys.readouterr().out
    assert not end.value.code and ENCODER in printed and TFIDF in printed
    assert not re.search(r"<NA>|\bNone\b", printed)
