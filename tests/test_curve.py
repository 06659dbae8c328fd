"""The learning curve: which examples, what learns from them, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import BertModel

from harness import load_records, run
from harness.analysis.compare import compare
from harness.analysis.crossing import crossing_text
from harness.config.loading import load_config
from harness.core.errors import ConfigError, ModelError, RunDirError
from harness.core.task import Sample
from harness.planning.curve import nested_subset, split
from harness.planning.preparation import prepare
from harness.planning.units import make_plan
from harness.reporting.comparison import write_comparison
from harness.reporting.report.build import write_report
from harness.results.quarantine import Verdict
from harness.results.store import RunStore
from harness.running.messages import Handling
from harness.running.opening import open_worker
from harness.running.race import race
from harness.running.specs import Grids, opening
from tests.conftest import KO_TINY, REPO
from tests.encoders import random_encoder
from tests.forked import Forked

BASE = [
    "task.limit=30", "grid.templates=[lecture_1]", "grid.k=[0]", "grid.seeds=[1]", "name=run",
    "cluster.address=inline", "model.device=cpu",
]  # fmt: skip


def config_of(out, *overrides):
    return load_config("configs/fewshot_or_finetune.yaml", [f"out={out}", *BASE, *overrides])


def rows_of(counts):
    golds = [gold for gold, count in enumerate(counts) for _ in range(count)]
    return [Sample(f"r{i}", {"text": f"t{i}"}, gold) for i, gold in enumerate(golds)]


@pytest.mark.parametrize("counts", [(50, 50), (90, 10), (30, 50, 20)])
def test_subsets_are_nested_and_have_the_classes_in_their_shares(counts):
    rows = rows_of(counts)
    order = nested_subset(rows, len(counts), 100, seed=3)
    assert sorted(row.id for row in order) == sorted(row.id for row in rows)
    for n in (1, 10, 37, 60):
        subset = nested_subset(rows, len(counts), n, seed=3)
        assert subset == order[:n]
        taken = Counter(row.gold for row in subset)
        assert all(abs(taken[gold] - n * count / 100) <= 1 for gold, count in enumerate(counts))
    assert nested_subset(rows[::-1], len(counts), 60, seed=3) == order[:60], "ids alone decide, not the file's order"
    assert nested_subset(rows, len(counts), 60, seed=4) != order[:60]


def test_what_is_held_out_has_every_class_and_is_none_of_what_is_trained_on():
    train, held_out = split(nested_subset(rows_of((60, 40)), 2, 50, seed=1))
    assert len(train) + len(held_out) == 50 and not {r.id for r in train} & {r.id for r in held_out}
    assert len(held_out) == 10 and {r.gold for r in held_out} == {0, 1}
    assert [len(part) for part in split(rows_of((1, 1)))] == [1, 1]


def test_tfidf_figures_are_those_of_a_plain_script(tmp_path):
    config = config_of(tmp_path, "finetune.methods=[tfidf]", "finetune.sizes=[50,200]", "finetune.seeds=[1,2]")
    cells = run(config).cells
    found = cells[cells["model"] == "tfidf"].set_index(["k", "seed"])["accuracy"]
    assert len(found) == 4
    data = prepare(config).data
    asked = {sample.fields["document"] for sample in data.samples}
    pool = [row for row in data.pool if row.fields["document"] not in asked]
    for (n, seed), accuracy in found.items():
        rows = nested_subset(pool, 2, n, seed)
        vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
        train, held_out = split(rows)
        rows = [*train, *held_out]
        features = vectorizer.fit_transform([row.fields["document"] for row in rows])
        fitted = LogisticRegression(C=10, max_iter=1000).fit(features, [row.gold for row in rows])
        predicted = fitted.predict(vectorizer.transform([sample.fields["document"] for sample in data.samples]))
        assert accuracy == pytest.approx(np.mean(predicted == [sample.gold for sample in data.samples]))


def test_a_curve_grows_and_computes_only_what_is_missing(tmp_path):
    methods = "finetune.methods=[tfidf]"
    run(config_of(tmp_path, methods, "finetune.sizes=[50]", "finetune.seeds=[1]"))
    store = RunStore(str(tmp_path / "run"))
    before = store.part_ids()
    run(config_of(tmp_path, methods, "finetune.sizes=[50,100]", "finetune.seeds=[1,2]"))
    assert before <= store.part_ids() and len(store.part_ids()) == len(before) + 3
    grown = store.read_json("manifest.json")["sessions"][-1]["grown"]
    assert grown == {"finetune.sizes": [100], "finetune.seeds": [2]}
    labels = set(compare([store.run_dir]).strategies["label"])
    assert {"tfidf n=50 seed=1", "tfidf n=100 seed=2"} <= labels
    with pytest.raises(RunDirError, match="leaves out: n=100, training seed 2"):
        run(config_of(tmp_path, methods, "finetune.sizes=[50]", "finetune.seeds=[1]"))


def test_compare_and_report_say_from_which_n_labels_beat_prompts(tmp_path):
    methods = "finetune.methods=[tfidf]"
    run_dir = run(config_of(tmp_path, methods, "finetune.sizes=[50,400]", "finetune.seeds=[1,2]")).run_dir
    found = compare([run_dir])
    (crossing,) = found.crossings
    assert (crossing.model, crossing.sizes, crossing.n_seeds) == ("tfidf", (50, 400), 2)
    console = Console(file=StringIO(), width=200)
    write_comparison(console, found, "json")
    facts = json.loads(console.file.getvalue(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert facts["crossings"][0]["model"] == "tfidf"
    console = Console(file=StringIO(), width=400)
    write_comparison(console, found, "table")
    assert f"Prompting or labelling: {crossing_text(crossing)}." in console.file.getvalue()
    page = write_report([run_dir]).read_text()
    assert "Prompting or labelling" in page and "labelled examples (log scale)" in page
    assert "on training" in page
    assert compare([run_dir], metric="predicted_positive_share").crossings == ()


def records_of(out):
    records = load_records(str(out / "run"))
    return records[records["template"].isna()].reset_index(drop=True)


def test_a_probe_and_a_fine_tuning_of_an_encoder_stand_in_the_same_table(tmp_path):
    base = random_encoder(tmp_path / "base", head=BertModel)
    sizes = ["finetune.sizes=[40]", "finetune.seeds=[1]", f"finetune.base={base}"]
    run(config_of(tmp_path, *sizes))
    records = records_of(tmp_path)
    assert set(records["model"]) == {"tfidf", "probe", "finetuned"}
    assert records["error"].isna().all() and set(records["k"]) == {40}
    probabilities = np.exp(np.array(records["label_logprobs"].tolist())).sum(axis=1)
    assert probabilities == pytest.approx(np.ones(len(records)))
    assert not list((tmp_path / "run" / "training").iterdir()), "checkpoints go when training is done"


def start(out, *overrides, by=Forked):
    arguments = [f"out={out}", *BASE, *overrides]
    command = [sys.executable, "-m", "harness", "run", "configs/fewshot_or_finetune.yaml", *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    return by(command, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_a_fine_tuning_that_was_killed_ends_with_the_same_records(tmp_path):
    base = random_encoder(tmp_path / "base", head=BertModel)
    settings = [
        "finetune.sizes=[160]", "finetune.seeds=[1]", f"finetune.base={base}", "finetune.methods=[finetuned]",
        "finetune.learning_rate=0.0005",
    ]  # fmt: skip
    whole = start(tmp_path / "whole", *settings, by=subprocess.Popen)
    assert whole.wait(300) == 0, whole.stdout.read().decode()
    killed = start(tmp_path / "killed", *settings)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed" / "run").glob("training/*/checkpoint-*/trainer_state.json")):
        assert killed.poll() is None and time.monotonic() < deadline, killed.stdout.read().decode()
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not list((tmp_path / "killed" / "run").glob("parts/*.parquet")) or not len(records_of(tmp_path / "killed"))
    again = start(tmp_path / "killed", *settings)
    out = again.communicate(timeout=300)[0].decode()
    assert again.returncode == 0, out
    assert "training goes on at checkpoint-" in out
    mine, expected = records_of(tmp_path / "killed"), records_of(tmp_path / "whole")
    logprobs = [np.array(records.pop("label_logprobs").tolist()) for records in (mine, expected)]
    assert np.array_equal(*logprobs), "to the last bit"
    assert mine.equals(expected)


def test_a_classifier_that_learned_says_the_same_of_samples_that_are_tried_by_themselves_first(tmp_path):
    prepared = prepare(config_of(tmp_path, "finetune.sizes=[20]", "finetune.seeds=[1]", "finetune.methods=[scratch]"))
    (tmp_path / "run" / "parts").mkdir(parents=True)
    plan = make_plan(prepared, 30)
    (unit,) = (one for one in plan.units if one.model == "scratch")
    samples = plan.shards[unit.shard].samples
    _, draw, spec = opening(prepared, "scratch", Grids({}, {}), 0.0)
    worker = open_worker(spec, draw)
    found = {}
    for alone in (False, True):
        out = (Verdict(samples[0].id, "ReplicaDied", "it ends its process"),)
        report = worker.run_unit(unit, samples, None, Handling(out, alone, last=frozenset({samples[1].id})))
        assert (report.statistics.n_records, report.statistics.n_prompts) == (30, 30)
        found[alone] = worker.store.read_part(unit.id).to_pylist()
        worker.store.remove_part(unit.id)
    assert found[True] == found[False]
    assert [row["sample_id"] for row in found[True] if row["error"] is not None] == [samples[0].id]


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["finetune.sizes=[5000]"], r"finetune.sizes asks for 5,000 labelled examples, but the pool has 6\d\d"),
        (["finetune.sizes=[50,50]"], "finetune.sizes names a value twice"),
        (["finetune.sizes=[1]"], r"finetune.sizes is 1, expected at least 2"),
        (["finetune.methods=[tf_idf]"], "finetune.methods names 'tf_idf'; did you mean 'tfidf'"),
        (["finetune.methods=[probe]"], "'probe', which begins with a pre-trained encoder; set finetune.base"),
        ([f"finetune.base={KO_TINY}"], "is a decoder, which reads in one direction"),
        (["finetune.fields=[text]"], "finetune.fields names 'text', which no sample has"),
        (["finetune.learning_rate=2"], "finetune.learning_rate is 2.0, expected more than 0"),
    ],
)
def test_bad_settings_end_in_one_line_before_anything_is_computed(tmp_path, overrides, match):
    with pytest.raises((ConfigError, ModelError), match=match):
        run(config_of(tmp_path, *overrides))
    assert not (tmp_path / "run").exists()


def test_rows_with_the_text_of_a_test_sample_are_left_out_and_said(tmp_path, write_nsmc):
    words = [f"{chr(0xAC00 + 31 * i)}{chr(0xAC00 + 17 * i)} 영화" for i in range(60)]
    train = [(f"t{i}", word, i % 2) for i, word in enumerate(words)]
    folder = write_nsmc(train, [("q1", words[3], 1), ("q2", words[4], 0), ("q3", "다른 글", 1)])
    options = ["task.limit=null", "finetune.sizes=[20]", "demos.max_tokens=null"]
    config = config_of(tmp_path, f"task.data_dir={folder}", *options)
    prepared = prepare(config)
    assert "finetune: 2 rows of the pool have the texts of a test sample and are left out" in prepared.notes
    rows = prepared.curve[0].rows.pool.samples
    assert len(rows) == 58 and not {"t3", "t4"} & {row.id for row in rows}


def test_a_task_whose_answers_are_written_has_no_learning_curve():
    config = load_config("configs/korquad_demo.yaml", ["finetune.sizes=[50]"])
    with pytest.raises(ConfigError, match="task 'korquad1' has no classes: its answers are written"):
        prepare(config)


@pytest.mark.slow
def test_replicas_on_ray_train_too(tmp_path):
    settings = ["cluster.address=local", "cluster.replicas=2", "finetune.sizes=[20]", "finetune.seeds=[1,2]"]
    run(config_of(tmp_path / "ray", *settings))
    run(config_of(tmp_path / "inline", *settings[2:]))
    mine, expected = records_of(tmp_path / "ray"), records_of(tmp_path / "inline")
    assert set(mine["model"]) == {"tfidf", "scratch"} and mine["error"].isna().all()
    logprobs = [np.array(records.pop("label_logprobs").tolist()) for records in (mine, expected)]
    assert np.abs(logprobs[0] - logprobs[1]).max() < 1e-4
    assert mine.equals(expected)


@pytest.mark.parametrize("asked", ["references=[{path: x}]", "finetune.sizes=[50]"])
def test_a_race_refuses_what_it_would_leave_out(tmp_path, asked):
    with pytest.raises(ConfigError, match="references or learning curves beside it would be left out"):
        race(load_config("configs/demo.yaml", [f"out={tmp_path}", asked]))


def test_an_adapter_of_a_reference_is_refused():
    with pytest.raises(ConfigError, match=r"references\[0\].adapter would not be loaded"):
        load_config("configs/demo.yaml", ["references=[{path: x, adapter: y}]"])
