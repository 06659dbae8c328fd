"""From run directories to printed comparisons, without a model."""

import io
import json
import math
import pathlib
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rich.console import Console

from harness.analysis.calibrate import calibrate, stored_content_free
from harness.analysis.compare import compare
from harness.analysis.intervals import mean_interval, paired_interval
from harness.analysis.summary import summarise
from harness.core.errors import ConfigError, DataError, RunDirError
from harness.reporting.calibration import write_calibration
from harness.reporting.comparison import write_comparison
from harness.results.schema import Record, to_table
from harness.results.store import RunStore

N = 60
GOLD = [i % 2 for i in range(N)]
SHARES = {"good": 0.9, "fair": 0.75, "poor": 0.55}


def classified(rng, template, k, seed, flips=0.0):
    """Records of one cell: right with the template's share; log-probabilities agree with the prediction."""
    found = []
    for i in range(N):
        right = rng.random() < SHARES[template] - flips
        prediction = GOLD[i] if right else 1 - GOLD[i]
        logprobs = [-2.0, -2.0]
        logprobs[prediction] = -0.5 - 0.1 * rng.random()
        found.append(Record("models/m", "t", template, k, seed, f"s{i}", GOLD[i], prediction, logprobs, [1, 1]))
    return found


def write_run(folder, records, clusters=None, metrics=()):
    store = RunStore(str(folder))
    store.create()
    ids = sorted({record.sample_id for record in records})
    axes = {"templates": "template", "k": "k", "seeds": "seed"}
    grid = {
        name: sorted({getattr(r, axis) for r in records}) or [0 if name != "templates" else "a"]
        for name, axis in axes.items()
    }
    config = {"model": {"path": "models/m"}, "task": {"name": "t"}, "grid": grid}
    facts = {"answer_metrics": list(metrics), "class_names": ["no", "yes"], "n_samples": max(1, len(ids))}
    store.write_json("manifest.json", {"config": config, **facts})
    columns = {
        "sample_id": pa.array(ids, pa.string()),
        "gold": pa.array([-1] * len(ids), pa.int32()),
        "answers": pa.array([[]] * len(ids), pa.list_(pa.string())),
        "cluster": pa.array([(clusters or {}).get(i, "") for i in ids], pa.string()),
    }
    store.write_table("samples.parquet", pa.table(columns))
    store.write_part("u1", to_table(records), {})
    return str(folder)


@pytest.fixture
def records():
    rng = np.random.default_rng(0)
    cells = []
    for template in SHARES:
        zero = classified(rng, template, 0, 1)
        cells += zero + [Record(**{f: getattr(r, f) for f in Record.__slots__} | {"seed": 2}) for r in zero]
        cells += classified(rng, template, 4, 1) + classified(rng, template, 4, 2)
    return cells


@pytest.fixture
def run_dir(records, tmp_path):
    return write_run(tmp_path / "demo", records)


def values_of(records, template, k, seed):
    return np.array(
        [float(r.prediction == r.gold) for r in records if (r.template, r.k, r.seed) == (template, k, seed)]
    )


def test_cells_are_compared_as_they_are_and_k0_once(run_dir, records):
    found = compare([run_dir], replicates=100)
    assert sorted(found.strategies["label"]) == sorted(
        [f"{t} K=0" for t in SHARES] + [f"{t} K=4 seed={s}" for t in SHARES for s in (1, 2)]
    )
    assert len(found.pairs) == 36
    row = found.strategies.set_index("label").loc["fair K=4 seed=2"]
    alone = mean_interval(values_of(records, "fair", 4, 2))
    assert (row["mean"], row["low"], row["high"], row["n_scored"]) == (alone.value, alone.low, alone.high, N)
    pair = found.pairs.set_index(["first", "second"]).loc[("fair K=0", "poor K=0")]
    expected = paired_interval(values_of(records, "fair", 0, 1) - values_of(records, "poor", 0, 1))
    assert (pair["difference"], pair["low"]) == (expected.value, expected.low)


def test_the_best_comes_first_and_those_like_it_are_marked(run_dir):
    found = compare([run_dir], ["template"], seeds="fixed", replicates=500)
    assert found.strategies["label"].tolist() == ["good", "fair", "poor"]
    assert found.strategies["is_best"].tolist() == [True, False, False]
    assert not found.strategies["may_be_best"].tolist()[2]
    assert found.best == "good"
    assert found.settings["averaged"] == ["k", "seed"]
    assert found.strategies["share_best"].sum() == pytest.approx(1)


def test_seeds_at_large_widen_what_these_seeds_show(run_dir):
    widths = [
        np.mean(pairs["high"] - pairs["low"])
        for pairs in (
            compare([run_dir], ["template"], seeds=seeds, replicates=50).pairs for seeds in ("fixed", "random")
        )
    ]
    assert widths[1] > widths[0]


@pytest.mark.parametrize("text", ["poor K=0", "template=poor,k=0", "K=0, template=poor"])
def test_a_baseline_meets_all_others_and_no_one_else(run_dir, text):
    found = compare([run_dir], baseline=text, replicates=50)
    assert len(found.pairs) == 8
    assert set(found.pairs["second"]) == {"poor K=0"}


def test_the_group_of_the_best_does_not_depend_on_the_baseline(run_dir):
    groups = [
        compare([run_dir], baseline=b, replicates=50).strategies["may_be_best"].tolist() for b in (None, "poor K=0")
    ]
    assert groups[0] == groups[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "pour K=0"}, "no strategy is 'pour K=0'.*did you mean 'poor K=0'"),
        ({"baseline": "template=poor"}, "3 strategies are 'template=poor'.*name more axes"),
        ({"baseline": "colour=red"}, "no strategy is"),
        ({"by": ["templates"]}, "did you mean 'template'"),
        ({"metric": "f1"}, "no metric 'f1'"),
        ({"by": ["model"]}, "1 level of model"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(run_dir, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        compare([run_dir], **options)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunDirError, match=r"no manifest\.json"):
        compare([str(tmp_path)])
    with pytest.raises(RunDirError, match=r"no manifest\.json"):
        calibrate(str(tmp_path))


def test_a_run_without_records_is_refused(tmp_path):
    run_dir = write_run(tmp_path / "empty", [])
    for verb in (lambda: compare([run_dir]), lambda: calibrate(run_dir)):
        with pytest.raises(RunDirError, match="no records yet"):
            verb()


def test_two_runs_are_an_axis(records, run_dir, tmp_path):
    other = write_run(tmp_path / "other", [r for r in records if r.k == 4])
    found = compare([run_dir, other], ["run"], replicates=50)
    assert set(found.strategies["label"]) == {"demo", "other"}
    assert found.pairs["difference"].tolist() == [0.0]
    assert any("3 of 15 cells are left out" in note for note in found.notes)


def test_runs_of_different_gold_labels_are_refused(records, run_dir, tmp_path):
    flipped = [Record(**{f: getattr(r, f) for f in Record.__slots__} | {"gold": 1 - r.gold}) for r in records]
    with pytest.raises(DataError, match="two gold labels"):
        compare([run_dir, write_run(tmp_path / "flipped", flipped)])


def test_clusters_reach_the_intervals(records, tmp_path):
    run_dir = write_run(tmp_path / "c", records, {f"s{i}": f"p{i % 15}" for i in range(N)})
    found = compare([run_dir], replicates=50)
    assert set(found.strategies["n_units"]) == {15}
    assert set(found.pairs["test"]) == {"sign flips"}
    assert any("60 samples in 15 clusters" in note for note in found.notes)


def test_failed_samples_are_counted_and_left_out_by_pair(records, tmp_path):
    broken = [
        Record(r.model, r.task, r.template, r.k, r.seed, r.sample_id, r.gold, error_type="X", error="x")
        if (r.template, r.k) == ("good", 0) and r.sample_id in ("s1", "s2")
        else r
        for r in records
    ]
    found = compare([write_run(tmp_path / "b", broken)], replicates=50)
    row = found.strategies.set_index("label").loc["good K=0"]
    assert (row["n_scored"], row["n_attempted"], row["n"]) == (N - 2, N, N - 2)
    assert set(found.strategies["n"]) == {N - 2}
    assert found.selection.as_seen.n == N - 2
    (warning,) = found.warnings
    assert "from 0.0%" in warning and "to 3.3% (good K=0)" in warning
    assert f"Warning: {warning}" in " ".join(printed(write_comparison, found, "table").split())
    involved = (found.pairs["first"] == "good K=0") | (found.pairs["second"] == "good K=0")
    assert set(found.pairs.loc[involved, "n"]) == {N - 2}
    assert set(found.pairs.loc[~involved, "n"]) == {N}


def answered(template, values):
    return [
        Record("m", "qa", template, 0, 1, f"s{i}", -1, answer="x", finish_reason="stop", answer_values=list(pair))
        for i, pair in enumerate(values)
    ]


def test_generated_answers_are_compared_by_their_metrics(tmp_path):
    rng = np.random.default_rng(1)
    one, other = rng.random((40, 2)), rng.random((40, 2))
    run_dir = write_run(tmp_path / "qa", answered("a", one) + answered("b", other), metrics=["exact_match", "f1"])
    first = compare([run_dir], replicates=50)
    assert first.settings["metric"] == "exact_match"
    second = compare([run_dir], metric="f1", replicates=50)
    assert second.pairs.loc[0, "difference"] == pytest.approx((one - other)[:, 1].mean())
    with pytest.raises(ConfigError, match="no metric 'accuracy'"):
        compare([run_dir], metric="accuracy")
    with pytest.raises(ConfigError, match="generated answers"):
        calibrate(run_dir)


def test_every_stored_figure_is_compared_by_its_mean_over_samples(run_dir, records):
    greedy = [
        Record(**{f: getattr(r, f) for f in Record.__slots__}
               | {"greedy_prediction": r.prediction if i % 3 else None, "off_label_mass": 0.01 * (i % 7),
                  "n_prompt_tokens": 20 + i % 5})
        for i, r in enumerate(records)
    ]  # fmt: skip
    folder = write_run(pathlib.Path(run_dir).parent / "greedy", greedy)
    cells = summarise(folder).set_index(["template", "k", "seed"])
    for name in ("accuracy", "greedy_accuracy", "off_label_mass", "predicted_positive_share"):
        rows = compare([folder], metric=name, replicates=10).strategies
        for row in rows.to_dict("records"):
            cell = cells.loc[(row["template"], row["k"], 1 if pd.isna(row["seed"]) else row["seed"])]
            assert row["mean"] == pytest.approx(cell[name])
    tokens = compare([folder], metric="prompt_tokens", replicates=10)
    assert not tokens.settings["is_quality"]
    text = printed(write_comparison, tokens, "table")
    assert text.startswith("Highest: ")
    assert not re.search("best|better", text)
    with pytest.raises(ConfigError, match=r"no record of .* has a value for 'answer_length'"):
        compare([folder], metric="answer_length")
    with pytest.raises(ConfigError, match="no metric 'macro_f1' of single samples"):
        compare([folder], metric="macro_f1")


def test_figures_of_generated_answers_are_those_of_the_cells(tmp_path):
    rows = answered("a", np.ones((6, 1))) + answered("b", np.zeros((6, 1)))
    for i, record in enumerate(rows):
        rows[i] = replace(record, answer="ab"[: i % 3], finish_reason=("stop", "length")[i % 2])
    folder = write_run(tmp_path / "qa", rows, metrics=["exact_match"])
    cells = summarise(folder).set_index("template")
    for name in ("exact_match", "answer_length", "empty_share", "truncated_share"):
        found = compare([folder], metric=name, replicates=10).strategies.set_index("template")["mean"]
        assert found.to_dict() == pytest.approx(cells[name].to_dict())
    with pytest.raises(ConfigError, match="no metric 'off_label_mass'"):
        compare([folder], metric="off_label_mass")


def test_calibrated_predictions_are_strategies_that_count_in_the_choice(run_dir):
    found = compare([run_dir], replicates=10, calibrated=["batch"])
    rows = found.strategies.set_index("label")
    assert found.selection.n_strategies == len(rows) == 18
    cells = calibrate(run_dir).cells
    for cell in cells[cells["method"] == "batch"].to_dict("records"):
        seed = f" seed={cell['seed']}" if cell["k"] else ""
        label = f"{cell['template']} K={cell['k']}{seed}"
        assert rows.loc[label, "mean"] == pytest.approx(cell["before"])
        assert rows.loc[f"{label} +batch", "mean"] == pytest.approx(cell["after"])
    by_template = compare([run_dir], ["template"], replicates=10, calibrated=["batch"])
    assert set(by_template.strategies["label"]) == {f"{t}{c}" for t in SHARES for c in ("", " +batch")}
    pair = by_template.pairs.set_index(["first", "second"]).loc[("good", "good +batch")]
    assert pair["n"] == N
    assert any("cannot judge a single sample" in note for note in found.notes)
    plain = compare([run_dir], replicates=10)
    assert found.variance.equals(plain.variance)
    assert "+batch" in printed(write_comparison, found, "table")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibrated": ["bach"]}, "no calibration 'bach'; did you mean 'batch'"),
        ({"calibrated": ["PMI_DC"]}, r"no scores for PMI_DC calibration; run it with scoring.calibration=\[domain\]"),
        ({"calibrated": ["batch"], "metric": "greedy_accuracy"}, "compared by accuracy, not by 'greedy_accuracy'"),
    ],
)
def test_calibrations_that_cannot_be_had_are_said_in_one_line(run_dir, options, message):
    with pytest.raises(ConfigError, match=message):
        compare([run_dir], **options)


def test_failed_samples_stay_failed_when_calibrated(records, tmp_path):
    broken = [
        Record(r.model, r.task, r.template, r.k, r.seed, r.sample_id, r.gold, error_type="X", error="x")
        if (r.template, r.k) == ("good", 0) and r.sample_id in ("s1", "s2")
        else r
        for r in records
    ]
    found = compare([write_run(tmp_path / "b", broken)], replicates=10, calibrated=["batch"])
    rows = found.strategies.set_index("label")
    assert rows.loc["good K=0 +batch", "n_scored"] == N - 2
    assert rows.loc["fair K=0 +batch", "n_scored"] == N


def printed(write, figures, fmt, terminal=False):
    out = io.StringIO()
    write(Console(file=out, width=200, force_terminal=terminal), figures, fmt)
    return out.getvalue()


def write_all(console, comparison, fmt):
    write_comparison(console, comparison, fmt, everything=True)


def test_json_holds_everything_in_full_precision(run_dir):
    found = compare([run_dir], ["template"], replicates=50)
    facts = json.loads(printed(write_comparison, found, "json"))
    assert facts["settings"]["by"] == ["template"]
    assert [row["mean"] for row in facts["strategies"]] == pytest.approx(found.strategies["mean"].tolist(), abs=1e-15)
    assert [row["p"] for row in facts["pairs"]] == pytest.approx(found.pairs["p"].tolist(), abs=1e-15)
    assert facts["selection"]["expected"]["n"] == N
    assert len(facts["variance"]) > 3
    assert len(facts["sensitivity"]) == 2


def test_csv_holds_the_pairs(run_dir):
    found = compare([run_dir], ["template"], replicates=50)
    frame = pd.read_csv(io.StringIO(printed(write_comparison, found, "csv")))
    assert frame["p_holm"].tolist() == pytest.approx(found.pairs["p_holm"].tolist())
    bounds = [name for name in frame if name.endswith(("low", "high"))]
    assert bounds == ["low", "high"], "percentiles of resamples cover as little as 0.53 where few samples differ"


def test_the_table_marks_the_best_and_is_plain_in_a_pipe(run_dir):
    text = printed(write_all, compare([run_dir], replicates=50), "table")
    assert text.isascii()
    assert text.count("|* |") == 1
    assert "Differences are this minus good" in text
    first, second = text.splitlines()[:2]
    assert first.startswith("Use good")
    assert "on new samples" in second and "corrected for picking the best of 9" in second


def test_cells_with_demonstrations_hold_for_this_draw(run_dir):
    cells, averaged = compare([run_dir], replicates=10), compare([run_dir], ["template", "k"], replicates=10)
    assert (cells.is_one_draw, averaged.is_one_draw) == (True, False)
    text = " ".join(printed(write_all, cells, "table").split())
    assert text.count("K > 0: this demonstration draw") == 3
    assert "average the draws: --by template,k" in text
    assert "this demonstration draw" not in printed(write_comparison, averaged, "table")


def test_runs_of_one_seed_are_told_to_run_more(records, tmp_path):
    run_dir = write_run(tmp_path / "one", [r for r in records if r.seed == 1])
    for by in ([], ["template", "k"], ["template"]):
        found = compare([run_dir], by, replicates=10)
        assert found.is_one_draw
        assert any("grid.seeds=[1,2,3,4,5]" in note for note in found.notes)
    zero = compare([write_run(tmp_path / "zero", [r for r in records if r.k == 0])], replicates=10)
    assert not zero.is_one_draw
    assert zero.scope == "new samples"


@pytest.mark.parametrize(
    ("by", "fixed", "scope"),
    [
        ([], False, "new samples(, for this draw of demonstrations)?"),
        (["template"], False, "new samples and new draws of demonstrations"),
        (["template"], True, "new samples, for these 2 draws of demonstrations"),
        (["seed"], False, "new samples, for this draw of demonstrations"),
    ],
)
def test_the_figure_of_the_best_says_what_it_is_about(run_dir, by, fixed, scope):
    found = compare([run_dir], by, seeds="fixed" if fixed else "random", replicates=10)
    assert re.fullmatch(scope, found.scope)
    level = found.strategies[found.strategies["is_best"]].iloc[0]
    if not by:
        assert ("draw" in found.scope) == (level["k"] > 0)
    expected, seen = found.selection.expected, found.selection.as_seen
    assert (seen.value, seen.low, seen.high) == (level["mean"], level["low"], level["high"])
    assert expected.low <= expected.value <= expected.high


def test_markdown_has_both_tables(run_dir):
    text = printed(write_comparison, compare([run_dir], ["k"], replicates=50), "md")
    assert text.count("|---|") == 2 or text.count("\n|---") == 2
    assert "| K=4 |" in text


@pytest.mark.parametrize("fmt", ["table", "json", "csv", "md"])
def test_a_calibration_prints_in_every_format(run_dir, fmt):
    assert "ensemble" in printed(write_calibration, calibrate(run_dir), fmt)


def test_a_calibration_leads_with_a_row_per_method(run_dir):
    found = calibrate(run_dir)
    short = printed(write_calibration, found, "table")
    rows = [line for line in short.splitlines() if line.startswith("|")][2:]
    assert [row.split("|")[1].strip() for row in rows] == found.overall["method"].tolist() == ["batch", "ensemble"]
    assert "--all" in short.splitlines()[-1]
    everything = printed(lambda *args: write_calibration(*args, everything=True), found, "table")
    assert everything.startswith(short.split("- ")[0]) and everything.count("batch") > 9 and "--all" not in everything


def at_80_columns(write, figures, **options):
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, no_color=True, legacy_windows=False)
    write(console, figures, "table", **options)
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    return text


@pytest.mark.parametrize("baseline", [None, "document_first_and_then_poor K=0"])
def test_80_columns_have_room_for_intervals_and_whole_words(records, tmp_path, baseline):
    renamed = [replace(r, template=f"document_first_and_then_{r.template}") for r in records]
    run_dir = write_run(tmp_path / "wide", renamed)
    found = compare([run_dir], baseline=baseline, replicates=10)
    text = at_80_columns(write_comparison, found, everything=True)
    best = found.strategies.iloc[0]
    words = text.split()
    assert {f"{best['low']:.4f}-{best['high']:.4f}", "document_first_and_"} <= set(words)
    assert len(re.findall(r"[+-]0\.\d{4} +[+-]0\.\d{4} [+-]0\.\d{4}", text)) == 8, "a pair's difference and interval"
    calibrated = at_80_columns(write_calibration, calibrate(run_dir), everything=True)
    for one in (text, calibrated):
        pieces = {piece for word in one.split() for piece in re.split(r"(?<=_)", word) if re.match("[a-z]+_", word)}
        assert pieces <= {"", "document_", "first_", "and_", "then_", *SHARES}, "names go on after a mark"
    row = calibrate(run_dir).overall.iloc[0]
    assert f"{row['low']:+.4f} {row['high']:+.4f}" in calibrated


def test_calibration_counts_k0_once_and_compares_pairs(run_dir, records):
    found = calibrate(run_dir)
    batch = found.cells[found.cells["method"] == "batch"]
    assert len(batch) == 9
    assert set(batch["n"]) == {N}
    row = batch[(batch["template"] == "fair") & (batch["k"] == 0)].iloc[0]
    assert row["before"] == pytest.approx(values_of(records, "fair", 0, 1).mean())
    assert row["difference"] == pytest.approx(row["after"] - row["before"])
    ensemble = found.cells[found.cells["method"] == "ensemble"]
    assert ensemble["template"].tolist() == ["mean of 3"] * 3
    zero = ensemble[ensemble["k"] == 0].iloc[0]
    assert zero["before"] == pytest.approx(np.mean([values_of(records, t, 0, 1).mean() for t in SHARES]))
    assert found.overall["n_cells"].tolist() == [9, 3]
    assert found.overall.loc[0, "before"] == pytest.approx(batch["before"].mean())


def test_content_free_and_domain_scores_add_their_methods(run_dir):
    stored = {"N/A": [0.9, 0.1], "": [0.5, 0.5], "[MASK]": [0.8, 0.2]}
    extra = [
        Record("models/m", "t", "good", 4, 1, f"content-free:{text}", -1, 0, np.log(p).tolist(), [1, 1])
        for text, p in stored.items()
    ]
    store = RunStore(run_dir)
    store.write_part("u2", to_table(extra), {})
    store.write_json("manifest.json", {**store.read_json("manifest.json"), "calibration_units": ["u2"]})
    several, empty = stored_content_free(run_dir)
    assert np.allclose(np.sort(several["models/m", "good", 4, 1], axis=0), np.sort(np.log([*stored.values()]), axis=0))
    assert np.allclose(empty["models/m", "good", 4, 1], np.log([0.5, 0.5]))
    found = calibrate(run_dir)
    methods = found.cells[(found.cells["template"] == "good") & (found.cells["seed"] == 1) & (found.cells["k"] == 4)]
    assert methods["method"].tolist() == ["batch", "contextual", "PMI_DC"]
    pmi = methods[methods["method"] == "PMI_DC"].iloc[0]
    assert pmi["difference"] == 0.0
    assert not math.isnan(pmi["low"])
