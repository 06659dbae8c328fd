"""References that pick one of each sample's choices: equal to a plain loop one by one; what is refused."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultipleChoice, AutoTokenizer, BertForMultipleChoice, BertForQuestionAnswering

from harness import load_records, run
from harness.analysis.compare import compare
from harness.config.loading import load_config
from harness.core.errors import ConfigError, EngineError, ModelError
from harness.core.task import Sample
from harness.engine.choosing import Alternatives, Choices, LoadedChooser
from harness.engine.local.encoders.chooser import paired
from harness.engine.protocol import EngineFacts
from harness.planning.preparation import prepare
from harness.reporting.report.build import write_report
from harness.running.chooser_worker import Choosing
from harness.running.reference_worker import Input
from tests.conftest import KO_TINY, SHARED
from tests.encoders import random_encoder, reading_encoder

QUIZ = [
    {"question": f"{i} 다음에 오는 수는?", "choices": [str(i + k) for k in range(n)], "answer": "ABCDE"[i % n]}
    for i, n in enumerate([4, 5, 2, 3, 4, 4, 5, 3, 2, 4])
]  # fmt: skip
TEMPLATES = """
letters:
  query: "질문: {question}\\n{choices}\\n정답:"
  choices: {markers: A, label: " {marker}"}
  separator: "\\n\\n"
"""


@pytest.fixture
def quiz(tmp_path):
    """Overrides of a run on questions with two to five choices."""
    (tmp_path / "quiz.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in QUIZ))
    (tmp_path / "templates.yaml").write_text(TEMPLATES)
    options = "{fields: [question], choices: choices, answer: answer, answer_is: letter, pool_share: 0.2}"
    return [
        f"out={tmp_path}", "name=run", f"task.data_dir={tmp_path / 'quiz.jsonl'}", f"task.options={options}",
        "task.name=table", f"task.templates_file={tmp_path / 'templates.yaml'}", "grid.templates=[letters]",
        "grid.k=[0]", "grid.seeds=[1]", "cluster.address=inline", f"model.path={KO_TINY}", "task.limit=null",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    texts = [text for row in QUIZ for text in (row["question"], *row["choices"])]
    return reading_encoder(tmp_path_factory.mktemp("chooser"), texts, BertForMultipleChoice)


def referring(folder, extra=""):
    return f"references=[{{name: chooser, path: {folder}{extra}}}]"


def by_plain_loop(folder, texts, choices, longest):
    """Log-probabilities of one sample's choices, as the model's documentation shows it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMultipleChoice.from_pretrained(folder).eval()
    first, *second = texts
    behind = [" ".join([*second, choice]) for choice in choices]
    given = {"padding": True, "truncation": True, "max_length": longest, "return_tensors": "pt"}
    batch = tokenizer([first] * len(choices), behind, **given)
    with torch.inference_mode():
        logits = model(**{name: tensor.unsqueeze(0) for name, tensor in batch.items()}).logits
    return torch.log_softmax(logits[0].double(), -1).numpy()


def check_records(run_dir, folder, samples, fields, longest):
    records = load_records(run_dir)
    mine = records[records["model"] == "chooser"].set_index("sample_id")
    assert len(mine) == len(samples) and mine["template"].isna().all() and mine["error"].isna().all()
    for sample in samples:
        expected = by_plain_loop(folder, [sample.fields[name] for name in fields], sample.choices, longest)
        row = mine.loc[sample.id]
        assert row["label_logprobs"] == pytest.approx(expected, abs=1e-5)
        assert row["prediction"] == expected.argmax() and row["gold"] == sample.gold


def test_records_are_those_of_a_plain_loop_one_by_one(quiz, checkpoint):
    config = load_config("configs/click.yaml", [*quiz, referring(checkpoint)])
    run(config)
    samples = prepare(config).data.samples
    assert len({len(sample.choices) for sample in samples}) > 2
    check_records(config.run_dir, checkpoint, samples, ["question"], 160)
    found = compare([config.run_dir], baseline="chooser")
    assert found.pairs["n"].tolist() == [len(samples)]
    assert "chooser" in write_report([config.run_dir]).read_text()


@pytest.mark.parametrize("n", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_records_on_click_are_those_of_a_plain_loop(tmp_path, n):
    folder = SHARED / "data" / "click"
    if not folder.is_dir():
        pytest.skip("no CLIcK files: ../shared/data/click beside the repository is absent")
    overrides = [
        f"out={tmp_path}", f"task.data_dir={folder}", f"model.path={KO_TINY}", f"task.limit={n}",
        "cluster.address=inline", "grid.templates=[letters]", "name=run",
    ]  # fmt: skip
    samples = prepare(load_config("configs/click.yaml", overrides)).data.samples
    texts = [text for s in samples for text in (*s.fields.values(), *s.choices)]
    encoder = reading_encoder(tmp_path / "chooser", texts, BertForMultipleChoice)
    fields = ["paragraph", "question"]
    run(load_config("configs/click.yaml", [*overrides, referring(encoder, f", fields: {fields}")]))
    check_records(str(tmp_path / "run"), encoder, samples, fields, 160)


def test_the_second_text_of_a_pair_stands_before_the_choice():
    assert paired(Alternatives(("글", "물음"), ("가", "나"))) == [("글", "물음 가"), ("글", "물음 나")]
    assert paired(Alternatives(("물음",), ("가",))) == [("물음", "가")]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (random_encoder, "has a head for sequence classification"),
        (lambda f: random_encoder(f, head=BertForQuestionAnswering), "has a head for question answering"),
        (lambda f: KO_TINY, "is a decoder that writes text; give it as model.path"),
    ],
    ids=["classifier", "reader", "decoder"],
)
def test_another_head_is_refused(tmp_path, quiz, make, match):
    with pytest.raises(ModelError, match=f"{match}.*expected a checkpoint fine-tuned for multiple choice"):
        run(load_config("configs/click.yaml", [*quiz, referring(make(tmp_path / "model"))]))
    assert not (tmp_path / "run").exists()


def test_a_head_that_only_the_configuration_tells_of_is_never_asked(tmp_path, quiz):
    folder = random_encoder(tmp_path / "model", head=BertForQuestionAnswering)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMultipleChoice"]}))
    with pytest.raises(ModelError, match="missing, which would be random: "):
        run(load_config("configs/click.yaml", [*quiz, referring(folder)]))


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        (", fields: [text]", r"references\[0\].fields names 'text', which no sample has"),
        (", engine: encoders", "no chooser 'encoders'; did you mean 'encoder'"),
    ],
)
def test_bad_entries_end_in_one_line(quiz, checkpoint, extra, match):
    with pytest.raises(ConfigError, match=match):
        run(load_config("configs/click.yaml", [*quiz, referring(checkpoint, extra)]))


def test_a_learning_curve_needs_classes(quiz):
    with pytest.raises(ConfigError, match="has no classes: its samples bring choices of their own"):
        run(load_config("configs/click.yaml", [*quiz, "finetune.sizes=[2]"]))


class Untrue(LoadedChooser):
    """A chooser that gives what it is told to."""

    facts = EngineFacts("cpu", "float32")

    def __init__(self, logprobs):
        self.logprobs = logprobs

    def choose(self, samples):
        return Choices([np.array(row) for row in self.logprobs], np.ones(len(samples), dtype=np.int64), 0)


@pytest.mark.parametrize(
    ("logprobs", "match"), [([], "not all whole"), ([[-1.0]], "not all whole"), ([[-1, np.nan]], "NaN")]
)
def test_the_word_of_a_chooser_is_not_taken_for_it(logprobs, match):
    asked = [Input(Sample("q1", {"question": "물음"}, 0, choices=("가", "나")), None, ("물음",))]
    with pytest.raises(EngineError, match=match):
        Choosing(Untrue(logprobs)).ask(asked)
