"""`scoring.metrics` of runs: figures with intervals in every table, for finished runs too, and what is refused."""

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef
from typer.testing import CliRunner

import harness
from harness.analysis.named_metrics import CLASS_METRICS
from harness.analysis.summary import summarise
from harness.cli import app
from harness.config.loading import config_from
from harness.core.errors import ConfigError
from harness.planning.preparation import prepare

GRID = {"templates": ["lecture_1"], "k": [0, 2], "seeds": [1]}


def told(*words):
    done = CliRunner().invoke(app, list(words))
    assert done.exception is None, done.exception
    return done.stdout


def test_a_finished_run_gets_metrics_without_computing_anything(make_config, tmp_path):
    def config(metrics):
        return make_config(name="m", out=str(tmp_path), task={"limit": 40}, grid=GRID, scoring={"metrics": metrics})

    run_dir = harness.run(config([])).run_dir
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "m" / "parts").iterdir()}
    assert "mcc" not in summarise(run_dir)
    cells = harness.run(config(list(CLASS_METRICS))).cells
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "m" / "parts").iterdir()} == parts
    assert cells.equals(summarise(run_dir))
    records = harness.load_records(run_dir)
    for cell in cells.to_dict("records"):
        own = records[records["k"] == cell["k"]]
        assert cell["mcc"] == pytest.approx(matthews_corrcoef(own["gold"], own["prediction"].astype(int)))
        for name in ("mcc", "kappa", "auroc", "brier", "recall_negative", "f1_positive"):
            assert cell[f"{name}_low"] <= cell[name] <= cell[f"{name}_high"] or np.isnan(cell[name]), name
        assert 0 <= cell["ece_low"] <= cell["ece_high"]
    assert "balanced_accuracy_low" in told("show", run_dir, "--format", "csv").splitlines()[0]
    assert "mcc" in told("show", run_dir)


def test_written_answers_get_theirs(tmp_path):
    rows = "".join(f"1 더하기 {n}은?,{n + 1}\n" for n in range(20))
    (tmp_path / "t.csv").write_text(f"q,a\n{rows}", encoding="utf-8")
    (tmp_path / "t.yaml").write_text('plain: {query: "{q}\\n정답:", answer: " {answer}"}\n', encoding="utf-8")
    sections = {
        "name": "a",
        "out": str(tmp_path),
        "task": {
            "name": "table",
            "data_dir": str(tmp_path / "t.csv"),
            "templates_file": str(tmp_path / "t.yaml"),
            "options": {"answer": "a"},
        },
        "grid": {"templates": ["plain"], "k": [2], "seeds": [1]},
        "demos": {"max_tokens": None},
        "generation": {"max_new_tokens": 4},
        "scoring": {"metrics": ["chrf", "rouge_l", "same_text", "same_number"], "extract": r"(\d+)"},
        "cluster": {"address": "inline"},
    }
    cells = harness.run(config_from(sections)).cells
    records = harness.load_records(str(tmp_path / "a"))
    hits = []
    for row in records.itertuples():
        digits = [word for word in "".join(c if c.isdigit() else " " for c in row.answer).split() if word.isascii()]
        hits.append(bool(digits) and int(digits[-1]) == int(row.sample_id))
    assert cells["same_number"].tolist() == [pytest.approx(np.mean(hits))]
    for name in ("chrf", "rouge_l", "same_text", "same_number"):
        assert cells[f"{name}_low"][0] <= cells[name][0] <= cells[f"{name}_high"][0]
    assert "same number" in told("show", str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("scoring", "message"),
    [
        ({"metrics": ["mmc"]}, r"scoring\.metrics is 'mmc'; did you mean 'mcc'"),
        ({"metrics": ["chrf"]}, "names chrf, but task 'nsmc' has classes; expected of macro_f1"),
        ({"metrics": [3]}, r"scoring\.metrics"),
        ({"extract": "("}, r"scoring\.extract is '\(', expected a regular expression: "),
        ({"extract": "a"}, r"scoring\.extract is for scoring\.metrics of written answers"),
    ],
)
def test_metrics_that_are_not_there_are_refused(make_config, scoring, message):
    with pytest.raises(ConfigError, match=message):
        prepare(make_config(scoring=scoring, grid=GRID))


def test_metrics_that_a_task_has_or_cannot_have_are_refused(make_config, monkeypatch, tmp_path):
    from dataclasses import replace

    from tasks import nsmc

    monkeypatch.setattr(nsmc, "TASK", replace(nsmc.TASK, metrics={"mcc": lambda gold, predicted: 0.0}))
    with pytest.raises(ConfigError, match="names mcc, which task 'nsmc' has already"):
        prepare(make_config(scoring={"metrics": ["mcc"]}, grid=GRID))
    monkeypatch.setattr(nsmc, "TASK", replace(nsmc.TASK, class_names=("a", "b", "c")))
    with pytest.raises(ConfigError, match="names auroc, but task 'nsmc' has 3 classes, expected two"):
        prepare(make_config(scoring={"metrics": ["auroc"]}, grid=GRID))
