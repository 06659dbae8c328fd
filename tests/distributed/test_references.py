"""Classifiers as references: their records beside those of prompts, and what is refused."""

import json
import logging
import shutil

import numpy as np
import pytest
from transformers import BertForQuestionAnswering, pipeline

from harness import load_records, run
from harness.analysis.compare import compare
from harness.config.loading import load_config
from harness.config.schema import ReferenceEntry
from harness.core.errors import ConfigError, ModelError, RunDirError
from harness.engine.local.encoders.engine import ENGINE
from harness.engine.protocol import OpenSettings
from harness.results.store import RunStore
from tests.conftest import DEMO, KO_TINY
from tests.encoders import HEADLESS, NAMES, random_encoder, renamed, trained_encoder

BASE = [
    "model.dtype=float32", "model.device=cpu", "task.limit=24", "grid.templates=[lecture_1]", "grid.k=[0,2]",
    "grid.seeds=[1]", "cluster.shard_size=8", "name=run",
]  # fmt: skip
INLINE = "cluster.address=inline"


def config_of(out, *overrides):
    return load_config("configs/demo.yaml", [f"out={out}", *BASE, *overrides])


def referring(*entries):
    return "references=[" + ", ".join("{" + entry + "}" for entry in entries) + "]"


def rows_of(name, n=400):
    lines = (DEMO / name).read_text(encoding="utf-8").splitlines()[1:]
    return [(text, int(label)) for _, text, label in (line.split("\t") for line in lines)][:n]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return random_encoder(tmp_path_factory.mktemp("encoders") / "random")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_encoder(tmp_path_factory.mktemp("encoders") / "trained", rows_of("ratings_train.txt"))


def as_array(records, name):
    return np.array(records[name].tolist())


ON_RAY = pytest.param(["cluster.replicas=2"], id="ray", marks=pytest.mark.slow)


@pytest.mark.parametrize("where", [pytest.param([INLINE], id="inline"), ON_RAY])
def test_records_are_what_the_pipeline_of_transformers_predicts(tmp_path, checkpoint, where):
    config = config_of(tmp_path, *where, referring(f"name: small, path: {checkpoint}"))
    cells = run(config).cells
    assert cells["model"].tolist() == [str(config.entries[0].name)] * 2 + ["small"]
    records = load_records(config.run_dir)
    mine = records[records["model"] == "small"].set_index("sample_id")
    assert len(mine) == 24 and mine["template"].isna().all() and mine["error"].isna().all()
    samples = RunStore(config.run_dir).read_table("samples.parquet").to_pandas().set_index("sample_id")
    classify = pipeline("text-classification", str(checkpoint), device="cpu", top_k=None, truncation=True)
    for name, text in samples["document"].items():
        found = {one["label"]: one["score"] for one in classify([text])[0]}
        assert NAMES[mine.loc[name, "prediction"]] == max(found, key=found.get)
        expected = [np.log(found[label]) for label in NAMES]
        assert mine.loc[name, "label_logprobs"] == pytest.approx(expected, abs=1e-4)
    assert "small" in set(compare([config.run_dir]).strategies["label"])


def test_a_run_takes_a_reference_up_later_and_computes_nothing_twice(tmp_path, checkpoint):
    plain = config_of(tmp_path, INLINE)
    run(plain)
    before = RunStore(plain.run_dir).part_ids()
    grown = config_of(tmp_path, INLINE, referring(f"name: small, path: {checkpoint}"))
    run(grown)
    added = RunStore(plain.run_dir).part_ids() - before
    assert len(added) == 3 and before <= RunStore(plain.run_dir).part_ids()
    manifest = RunStore(plain.run_dir).read_json("manifest.json")
    assert manifest["sessions"][-1]["grown"] == {"references": ["small"]}
    assert manifest["n_units"] == len(before) + 3
    run(config_of(tmp_path, INLINE, referring(f"name: small, path: {checkpoint}"), "task.limit=30"))
    records = load_records(plain.run_dir)
    assert (records["model"] == "small").sum() == 30
    with pytest.raises(RunDirError, match="leaves out: reference 'small'"):
        run(config_of(tmp_path, INLINE, "task.limit=30"))


def test_another_checkpoint_under_the_same_name_is_refused(tmp_path, checkpoint):
    run(config_of(tmp_path / "out", INLINE, referring(f"name: small, path: {checkpoint}")))
    other = random_encoder(tmp_path / "other", seed=1)
    with pytest.raises(RunDirError, match=r"belongs to another configuration: references\.small\.files"):
        run(config_of(tmp_path / "out", INLINE, referring(f"name: small, path: {other}")))


def accuracy(config):
    cells = run(config).cells
    return float(cells.loc[cells["model"] == "small", "accuracy"].iloc[0])


def test_names_in_another_order_are_read_by_name(tmp_path, trained):
    straight = accuracy(config_of(tmp_path / "a", INLINE, referring(f"name: small, path: {trained}")))
    folder = renamed(trained, ["LABEL_0", "LABEL_1"], tmp_path / "nameless")
    assert accuracy(config_of(tmp_path / "b", INLINE, referring(f"name: small, path: {folder}"))) == straight


def test_a_swapped_id2label_is_found(tmp_path, trained):
    folder = renamed(trained, NAMES[::-1], tmp_path / "swapped")
    with pytest.raises(ModelError, match=r"its id2label is swapped: read by name \d+% of 256 labelled rows"):
        run(config_of(tmp_path, INLINE, referring(f"name: small, path: {folder}")))


def test_labels_without_names_are_told_by_rows_of_the_pool(tmp_path, trained, checkpoint, caplog):
    caplog.set_level(logging.WARNING)
    folder = renamed(trained, ["LABEL_0", "LABEL_1"], tmp_path / "nameless")
    run(config_of(tmp_path / "out", INLINE, referring(f"name: small, path: {folder}")))
    assert "its labels LABEL_0, LABEL_1 are the classes 0, 1, told by 256 labelled rows of the pool" in caplog.text
    folder = renamed(checkpoint, ["LABEL_0", "LABEL_1"], tmp_path / "random")
    with pytest.raises(ModelError, match="labelled rows of the pool do not tell which is which"):
        run(config_of(tmp_path / "other", INLINE, referring(f"name: small, path: {folder}")))


@pytest.mark.parametrize("head", HEADLESS)
def test_a_checkpoint_without_a_classification_head_is_refused(tmp_path, head):
    folder = random_encoder(tmp_path / "model", head=HEADLESS[head])
    with pytest.raises(ModelError, match=f"{head}.*expected a checkpoint fine-tuned for sequence classification"):
        run(config_of(tmp_path, INLINE, referring(f"path: {folder}")))


def test_a_head_that_only_the_configuration_tells_of_is_never_scored(tmp_path):
    folder = random_encoder(tmp_path / "model", head=HEADLESS["BertModel"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(ModelError, match="missing, which would be random: classifier"):
        run(config_of(tmp_path, INLINE, referring(f"path: {folder}")))


def decoder(folder):
    shutil.copytree(KO_TINY, folder)
    return folder


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (decoder, "is a decoder that writes text; give it as model.path"),
        (lambda f: random_encoder(f, head=BertForQuestionAnswering), "has a head for question answering"),
        (lambda f: random_encoder(f, labels=["a", "b", "c"]), r"has 3 classes \(a, b, c\), but task 'nsmc' has 2"),
        (lambda f: random_encoder(f, labels=["score"]), "has 1 output, a regression"),
    ],
    ids=["decoder", "question answering", "three classes", "regression"],
)
def test_what_is_no_classifier_of_the_task_is_refused_before_anything_is_computed(tmp_path, make, match):
    folder = make(tmp_path / "model")
    with pytest.raises((ModelError, ConfigError), match=match):
        run(config_of(tmp_path, INLINE, referring(f"path: {folder}")))
    assert not (tmp_path / "run" / "parts").exists() or not list((tmp_path / "run" / "parts").iterdir())


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ("name: small", "references\\[0\\] has no path"),
        ("path: x, nam: y", "unknown configuration key 'references\\[0\\].nam'; did you mean 'name'"),
        ("path: x, fields: [a, b, c]", "references\\[0\\].fields is .*expected one field of the samples, or a pair"),
        ("path: x, dtype: float8", "references\\[0\\].dtype is 'float8'"),
        (f"path: {KO_TINY}, name: {KO_TINY}", "expected each name once"),
        ("path: x, fields: [text]", "references\\[0\\].fields names 'text', which no sample has"),
        ("path: x, engine: encoders", "no classifier 'encoders'; did you mean 'encoder'"),
    ],
)
def test_bad_entries_end_in_one_line(tmp_path, entry, match):
    with pytest.raises((ConfigError, ModelError), match=match):
        run(config_of(tmp_path, INLINE, f"model.path={KO_TINY}", referring(entry)))


def test_pairs_are_read_as_the_pipeline_reads_them(checkpoint):
    pairs = [("영화가 좋다", "재미있다"), ("별로", "아주 길고 지루한 영화였다")]
    entry = ReferenceEntry(str(checkpoint))
    found = ENGINE.open(entry, OpenSettings()).classify(pairs)
    classify = pipeline("text-classification", str(checkpoint), device="cpu", top_k=None)
    for row, (text, pair) in zip(found.logprobs, pairs, strict=True):
        scores = {one["label"]: one["score"] for one in classify([{"text": text, "text_pair": pair}])[0]}
        assert row == pytest.approx([np.log(scores[label]) for label in NAMES], abs=1e-5)


NLI = ["entailment", "contradiction", "neutral"]


@pytest.fixture
def pairs(tmp_path):
    """Overrides of a run on 30 sentence pairs in KLUE-NLI's columns, of which 9 are the pool."""
    words = ["비가 온다", "영화가 길다", "버스가 늦었다", "산이 높다", "책이 두껍다", "커피가 식었다"]
    rows = [
        {"guid": f"p{i}", "premise": f"{words[i % 6]}. {i}번", "hypothesis": words[i % 5], "gold_label": NLI[i % 3]}
        for i in range(30)
    ]
    (tmp_path / "klue-nli-v1.1_dev.json").write_text(json.dumps(rows, ensure_ascii=False))
    return [
        f"out={tmp_path}", "name=run", f"task.data_dir={tmp_path}", "task.limit=null", "task.options.pool_share=0.3",
        "grid.templates=[relation]", "grid.k=[0]", "grid.seeds=[1]", INLINE, f"model.path={KO_TINY}",
    ]  # fmt: skip


def test_references_and_curves_read_pairs_of_sentences(tmp_path, pairs):
    folder = random_encoder(tmp_path / "nli", labels=NLI)
    overrides = [
        *pairs, referring(f"name: nli, path: {folder}, fields: [premise, hypothesis]"), "finetune.sizes=[6]",
        "finetune.seeds=[1]", "finetune.methods=[tfidf]", "finetune.fields=[premise, hypothesis]",
    ]  # fmt: skip
    config = load_config("configs/klue_nli.yaml", overrides)
    run(config)
    records = load_records(config.run_dir)
    assert set(records["model"][records["template"].isna()]) == {"nli", "tfidf"} and records["error"].isna().all()
    mine = records[records["model"] == "nli"].set_index("sample_id")
    samples = RunStore(config.run_dir).read_table("samples.parquet").to_pandas().set_index("sample_id")
    classify = pipeline("text-classification", str(folder), device="cpu", top_k=None)
    for name, row in samples.iterrows():
        found = classify([{"text": row["premise"], "text_pair": row["hypothesis"]}])[0]
        scores = {one["label"]: one["score"] for one in found}
        assert mine.loc[name, "label_logprobs"] == pytest.approx([np.log(scores[label]) for label in NLI], abs=1e-4)


@pytest.mark.parametrize("asked", ["references=[{path: PATH}]", "finetune.sizes=[6]"])
def test_a_pair_of_fields_is_asked_for_where_samples_have_several(tmp_path, pairs, asked):
    asked = asked.replace("PATH", str(random_encoder(tmp_path / "nli", labels=NLI)))
    with pytest.raises(ConfigError, match=r"fields is empty, .*\(premise, hypothesis\).* or a pair such as"):
        run(load_config("configs/klue_nli.yaml", [*pairs, asked]))
