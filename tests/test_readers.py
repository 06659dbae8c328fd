"""References that read answers off contexts: which spans, which figures, what is refused."""

import json
import math
import os
import subprocess
from collections import defaultdict
from functools import cache
from itertools import islice

import numpy as np
import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, BertForQuestionAnswering

from harness import load_records, run
from harness.analysis.compare import compare
from harness.config.loading import load_config
from harness.config.schema import ReferenceEntry
from harness.core.errors import ConfigError, ContextError, EngineError, ModelError, RunDirError
from harness.engine.local.encoders.engine import READER
from harness.engine.protocol import EngineFacts, OpenSettings
from harness.engine.reading import LoadedReader, Question, Span, Spans
from harness.planning.preparation import prepare
from harness.reporting.report.build import write_report
from harness.results.store import RunStore
from harness.running.reader_worker import Reading
from harness.running.reference_worker import Input
from tasks.korquad_metrics import exact_match, f1_score
from tests.conftest import KO_TINY, SHARED
from tests.encoders import random_encoder, reading_encoder

STRIDE, MOST_TOKENS, N_BEST = 24, 12, 20
PIPELINE_PYTHON = os.environ.get("HARNESS_PIPELINE_PYTHON")
"""A Python with a transformers of version 4: later ones have no `question-answering` pipeline."""
PIPELINE = f"""
import json, sys
from transformers import PreTrainedTokenizerFast, pipeline
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
answer = pipeline("question-answering", sys.argv[1], tokenizer=tokenizer, device="cpu")
windows = dict(max_seq_len=160, doc_stride={STRIDE}, max_answer_len={MOST_TOKENS})
best = dict(top_k={N_BEST}, align_to_words=False)
print(json.dumps([answer(question=q, context=c, **windows, **best)[0]["answer"] for q, c in json.load(sys.stdin)]))
"""
BASE = ["grid.templates=[korean]", "grid.k=[0]", "grid.seeds=[1]", "name=run", "cluster.address=inline"]


def config_of(out, *overrides):
    return load_config("configs/korquad_demo.yaml", [f"out={out}", "task.limit=12", *BASE, *overrides])


def referring(folder, extra=""):
    return f"references=[{{name: reader, path: {folder}, stride: {STRIDE}, max_answer_tokens: {MOST_TOKENS}{extra}}}]"


@pytest.fixture(scope="module")
def questions():
    """The embedded questions and those of KorQuAD 1.0, where it is there: (question, context)."""
    config = load_config("configs/korquad_demo.yaml")
    found = [(s.fields["question"], s.fields["context"]) for s in prepare(config).data.samples]
    file = SHARED / "data" / "korquad1" / "KorQuAD_v1.0_dev.json"
    articles = json.loads(file.read_text())["data"] if file.is_file() else []
    paragraphs = [p for article in articles for p in article["paragraphs"]]
    return found, [(one["question"], p["context"]) for p in paragraphs for one in p["qas"]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, questions):
    texts = [text for pair in islice((*questions[0], *questions[1]), 3000) for text in pair]
    return reading_encoder(tmp_path_factory.mktemp("reader"), texts, BertForQuestionAnswering)


@cache
def loaded(folder):
    return AutoTokenizer.from_pretrained(folder), AutoModelForQuestionAnswering.from_pretrained(folder).eval()


def by_brute_force(folder, question, context, longest=160):
    """The answer by plain loops over one question's windows, one forward pass each."""
    tokenizer, model = loaded(folder)
    windows = tokenizer(
        question, context, truncation="only_second", max_length=longest, stride=STRIDE,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    totals, shown = defaultdict(float), {}
    for at, ids in enumerate(windows["input_ids"]):
        with torch.inference_mode():
            output = model(
                input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([windows["token_type_ids"][at]]),
                attention_mask=torch.tensor([windows["attention_mask"][at]]),
            )  # fmt: skip
        own = [place for place, part in enumerate(windows.sequence_ids(at)) if part == 1]
        sums = [sum(math.exp(logits[0, place]) for place in (0, *own)) for logits in output.values()]
        found = []
        for start in own:
            for end in range(start, min(start + MOST_TOKENS, own[-1] + 1)):
                score = (
                    math.exp(output.start_logits[0, start]) / sums[0] * math.exp(output.end_logits[0, end]) / sums[1]
                )
                offsets = windows["offset_mapping"][at]
                found.append((score, context[offsets[start][0] : offsets[end][1]]))
        for score, text in sorted(found, key=lambda one: -one[0])[:N_BEST]:
            totals[text.lower()] += score
            shown.setdefault(text.lower(), text)
    return shown[max(totals, key=totals.get)]


def read(folder, pairs):
    entry = ReferenceEntry(str(folder), stride=STRIDE, max_answer_tokens=MOST_TOKENS)
    found = READER.open(entry, OpenSettings()).read([Question(*pair) for pair in pairs])
    return [spans[0].text for spans in found.best], found


def test_records_are_the_best_spans_with_the_official_figures(tmp_path, checkpoint):
    config = config_of(tmp_path, referring(checkpoint))
    cells = run(config).cells
    assert cells["model"].tolist()[-1] == "reader"
    records = load_records(config.run_dir)
    mine = records[records["model"] == "reader"].set_index("sample_id")
    assert len(mine) == 12 and mine["template"].isna().all() and mine["error"].isna().all()
    names = RunStore(config.run_dir).read_json("manifest.json")["answer_metrics"]
    data = prepare(config).data
    assert any(len(sample.fields["context"]) > 160 for sample in data.samples), "several windows"
    for sample in data.samples:
        expected = by_brute_force(checkpoint, sample.fields["question"], sample.fields["context"])
        row = mine.loc[sample.id]
        assert row["raw_answer"] == expected and row["answer"] == expected.strip()
        values = dict(zip(names, row["answer_values"], strict=True))
        assert values["exact_match"] == max(exact_match(row["answer"], gold) for gold in sample.answers)
        assert values["f1"] == max(f1_score(row["answer"], gold) for gold in sample.answers)
    assert "reader" in set(compare([config.run_dir]).strategies["label"])
    assert compare([config.run_dir], metric="f1", baseline="reader").pairs["n"].tolist() == [12]
    assert "reader" in write_report([config.run_dir]).read_text()


@pytest.mark.slow
def test_answers_on_200_questions_of_korquad_are_the_best_spans(checkpoint, questions):
    pairs = questions[1][:200]
    if not pairs:
        pytest.skip("no KorQuAD: ../shared/data/korquad1 beside the repository is absent")
    assert read(checkpoint, pairs)[0] == [by_brute_force(checkpoint, *pair) for pair in pairs]


@pytest.mark.slow
@pytest.mark.skipif(PIPELINE_PYTHON is None, reason="HARNESS_PIPELINE_PYTHON names no Python with transformers 4")
def test_answers_on_200_questions_of_korquad_are_those_of_the_pipeline_of_transformers_4(checkpoint, questions):
    pairs = questions[1][:200] or questions[0]
    told = subprocess.run(
        [PIPELINE_PYTHON, "-c", PIPELINE, str(checkpoint)], input=json.dumps(pairs), capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert read(checkpoint, pairs)[0] == json.loads(told.stdout.splitlines()[-1])


def test_batches_and_their_order_change_no_answer(checkpoint, questions):
    pairs = questions[0][:20]
    together, found = read(checkpoint, pairs)
    assert together == [read(checkpoint, [pair])[0][0] for pair in pairs]
    assert (found.n_tokens > 0).all() and found.tokens_computed >= found.n_tokens.sum()
    scores = [[span.score for span in spans] for spans in found.best]
    assert all(own == sorted(own, reverse=True) for own in scores) and all(len(own) > 1 for own in scores)


def test_a_question_that_leaves_no_room_and_an_empty_context_are_failed_records(checkpoint, questions):
    with pytest.raises(ContextError, match=r"leaves \d+ of 160 tokens for its context, expected more than the stride"):
        read(checkpoint, [("길다 " * 50, "문서")])
    with pytest.raises(EngineError, match="the context has no tokens"):
        read(checkpoint, [("무엇인가?", "")])


def test_a_reader_is_taken_up_later_and_keeps_its_windows(tmp_path, checkpoint):
    run(config_of(tmp_path))
    before = RunStore(str(tmp_path / "run")).part_ids()
    run(config_of(tmp_path, referring(checkpoint)))
    assert before < RunStore(str(tmp_path / "run")).part_ids()
    with pytest.raises(RunDirError, match=r"belongs to another configuration: references\.reader\.stride"):
        run(config_of(tmp_path, referring(checkpoint).replace(f"stride: {STRIDE}", "stride: 8")))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (random_encoder, "has a head for sequence classification, which names a class"),
        (lambda f: KO_TINY, "is a decoder that writes text; give it as model.path"),
    ],
    ids=["classifier", "decoder"],
)
def test_another_head_is_refused(tmp_path, make, match):
    with pytest.raises(
        ModelError, match=f"{match}.*expected a checkpoint fine-tuned for extractive question answering"
    ):
        run(config_of(tmp_path, referring(make(tmp_path / "model"))))
    assert not (tmp_path / "run").exists()


def test_a_head_that_only_the_configuration_tells_of_is_never_read(tmp_path):
    folder = random_encoder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForQuestionAnswering"]}))
    with pytest.raises(ModelError, match="missing, which would be random: qa_outputs"):
        run(config_of(tmp_path, referring(folder)))


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        (", fields: [question]", r"fields is \['question'\].*expected the field of the question and that of the text"),
        (", fields: [question, contxt]", "fields names 'contxt', which no sample has; did you mean 'context'"),
        (", engine: encoders", "no reader 'encoders'; did you mean 'encoder'"),
        (", stride: -1", r"references\[0\].stride is -1"),
        (", stride: 160", "its stride is 160, expected less than the 160 tokens of a window"),
        (", max_answer_tokens: 0", r"references\[0\].max_answer_tokens is 0"),
    ],
)
def test_bad_entries_end_in_one_line(tmp_path, checkpoint, extra, match):
    entry = f"references=[{{name: reader, path: {checkpoint}{extra}}}]"
    with pytest.raises((ConfigError, ModelError), match=match):
        run(config_of(tmp_path, entry))


class Untrue(LoadedReader):
    """A reader that gives what it is told to."""

    facts = EngineFacts("cpu", "float32")

    def __init__(self, best):
        self.best = best

    def read(self, questions):
        return Spans(self.best, np.ones(len(self.best), dtype=np.int64), 0)


@pytest.mark.parametrize(
    ("best", "match"),
    [
        ([], "gave 0 answers to 1 questions"),
        ([[]], "gave no span"),
        ([[Span(0, 2, "아님", 0.5)]], "does not stand in the context"),
        ([[Span(0, 2, "문서", math.nan)]], "NaN"),
    ],
)
def test_the_word_of_a_reader_is_not_taken_for_it(best, match):
    asked = [Input(None, None, ("무엇?", "문서이다"))]
    with pytest.raises(EngineError, match=match):
        Reading(Untrue(best)).ask(asked)
