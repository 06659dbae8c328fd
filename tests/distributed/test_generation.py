"""Generated answers through the whole run: records, figures, exports, resuming."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from harness import load_records, run
from harness.analysis.summary import summarise
from harness.config.loading import load_config
from harness.core.errors import ConfigError, ContextError
from harness.engine.local.engine import LoadedModel, LocalEngine
from harness.engine.protocol import Generations
from harness.reporting.export import export_answers
from tests.conftest import KO_TINY, REPO, SHARED
from tests.distributed.compare import EXACT
from tests.distributed.test_resume import driver, part_times, wait_for_parts

REAL = SHARED / "data" / "korquad1"


@pytest.fixture
def questions(tmp_path):
    """A function from overrides to a small run on the embedded questions."""

    def make(*overrides):
        return load_config("configs/korquad_demo.yaml", question_overrides(tmp_path, *overrides))

    return make


def question_overrides(out, *overrides):
    base = [f"out={out}", "name=run", "model.dtype=float32", "model.device=cpu", "cluster.address=inline"]
    grid = [
        "grid.templates=[context_question,english]",
        "grid.k=[0,1]",
        "grid.seeds=[1]",
        "generation.max_new_tokens=8",
    ]
    return [*base, *grid, *overrides]


@pytest.fixture(scope="module")
def quiet_questions(tmp_path_factory):
    """The records of the small run on the embedded questions, which nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPO)
        overrides = question_overrides(tmp_path_factory.mktemp("quiet"))
        return load_records(run(load_config("configs/korquad_demo.yaml", overrides)).run_dir)


def official(text):
    """KorQuAD 1.0's normalisation, written from its rules."""
    text = re.sub("['\"《》<>〈〉()‘’]", " ", text)
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(text.split())


def official_scores(predictions, golds):
    """(EM, F1) in 0..1 over all questions; a missing prediction counts 0."""
    em = f1 = 0.0
    for key, answers in golds.items():
        if key not in predictions:
            continue
        guess = official(predictions[key])
        em += max(guess == official(a) for a in answers)
        best = 0.0
        for answer in answers:
            left, right = Counter(guess.replace(" ", "")), Counter(official(answer).replace(" ", ""))
            same = sum((left & right).values())
            if same:
                precision, recall = same / sum(left.values()), same / sum(right.values())
                best = max(best, 2 * precision * recall / (precision + recall))
        f1 += best
    return em / len(golds), f1 / len(golds)


def golds_of(path):
    data = json.loads(Path(path).read_text(encoding="utf-8"))["data"]
    return {
        q["id"]: [a["text"] for a in q["answers"]] for article in data for p in article["paragraphs"] for q in p["qas"]
    }


def with_answers(monkeypatch, answer):
    """Replace what the model says: `answer` is a function from the prompt's text to the answer."""
    tokenizer = AutoTokenizer.from_pretrained(str(KO_TINY))

    def generate(self, prompts, ending):
        tokens = [tokenizer(answer(prompt.text), add_special_tokens=False)["input_ids"] for prompt in prompts]
        return Generations(tokens, ["end"] * len(tokens), 0, 0)

    monkeypatch.setattr(LoadedModel, "generate", generate)


def test_records_hold_raw_and_cleaned_answers_and_their_values(questions):
    result = run(questions("generation.clean=[quotes]"))
    records = load_records(result.run_dir)
    assert len(records) == 61 * 2 * 2
    assert records["error"].isna().all()
    assert records[["gold", "prediction"]].isna().sum().tolist() == [0, len(records)]
    assert set(records["gold"]) == {-1}
    assert records["raw_answer"].notna().all()
    assert (records["n_generated_tokens"] <= 8).all()
    assert set(records["finish_reason"]) <= {"stop", "end", "length"}
    for name in ("exact_match", "f1", "found_in_context"):
        assert records[name].between(0, 1).all()
    assert not records["raw_answer"].str.contains("\n").any()


@pytest.mark.parametrize("address", ["inline", pytest.param("local", marks=pytest.mark.slow)])
def test_shown_figures_are_those_of_the_exported_files_by_the_official_rules(shared_ray, questions, address):
    result = run(questions(f"cluster.address={address}"))
    cells = summarise(result.run_dir)
    files = export_answers(result.run_dir, None)
    golds = golds_of("data_in/korquad_demo/KorQuAD_v1.0_dev.json")
    assert len(files) == len(cells) == 4
    for (_, cell), path in zip(cells.iterrows(), sorted(files, key=lambda p: order_of(p, cells)), strict=True):
        em, f1 = official_scores(json.loads(path.read_text(encoding="utf-8")), golds)
        assert cell["exact_match"] == pytest.approx(em, abs=1e-9)
        assert cell["f1"] == pytest.approx(f1, abs=1e-9)
        assert cell["f1_low"] <= cell["f1"] <= cell["f1_high"]


def order_of(path, cells):
    return [i for i, c in cells.iterrows() if f"-{c['template']}-k{c['k']}-seed{c['seed']}.json" in path.name]


def test_a_killed_run_resumes_with_the_same_answers(quiet_questions, tmp_path):
    overrides = question_overrides(tmp_path, "name=hit", "cluster.shard_size=6")
    process = driver(overrides, "configs/korquad_demo.yaml")
    try:
        wait_for_parts(f"{tmp_path}/hit", 3, process)
    finally:
        process.kill()
        process.communicate()
    before = part_times(tmp_path / "hit")
    resumed = run(load_config("configs/korquad_demo.yaml", overrides))
    after = part_times(tmp_path / "hit")
    assert {name: after[name] for name in before} == before
    assert len(after) > len(before)
    left, right = quiet_questions, load_records(resumed.run_dir)
    same = [c for c in left if c in (*EXACT, "raw_answer", "answer", "finish_reason", "exact_match", "f1")]
    assert left[same].equals(right[same])


def test_a_model_that_knows_the_answers_gets_everything(monkeypatch, questions):
    golds = golds_of("data_in/korquad_demo/KorQuAD_v1.0_dev.json")
    text = json.loads(Path("data_in/korquad_demo/KorQuAD_v1.0_dev.json").read_text(encoding="utf-8"))["data"]
    by_question = {
        (p["context"], q["question"]): golds[q["id"]][-1] for a in text for p in a["paragraphs"] for q in p["qas"]
    }
    with_answers(
        monkeypatch,
        lambda prompt: next(v for (c, q), v in by_question.items() if prompt.endswith(f"{c}\n질문: {q}\n답:")),
    )
    cells = run(questions("grid.templates=[context_question]")).cells
    assert (cells["exact_match"] == 1).all()
    assert (cells["f1"] == 1).all()
    assert (cells["found_in_context"] > 0.9).all()


@pytest.mark.slow
def test_all_real_questions_score_as_an_independent_computation_says(monkeypatch, questions):
    """The gold answers give 100/100; the first ten characters of each paragraph what the rules give."""
    if not REAL.is_dir():
        pytest.skip("no real KorQuAD: ../shared/data/korquad1 beside the repository is absent")
    data = json.loads((REAL / "KorQuAD_v1.0_dev.json").read_text(encoding="utf-8"))["data"]
    rows = [(p["context"], q) for a in data for p in a["paragraphs"] for q in p["qas"]]
    assert len(rows) == 5774
    # Ten questions are asked twice, one of them with another answer: prompts are told apart by order.
    waiting = iter(rows)

    def gold_answer(prompt):
        context, question = next(waiting)
        assert prompt == f"{context}\n질문: {question['question']}\n답:"
        return question["answers"][0]["text"]

    overrides = ("task.limit=null", f"task.data_dir={REAL}", "grid.templates=[context_question]", "grid.k=[0]")
    unlimited = LocalEngine.describe
    monkeypatch.setattr(
        LocalEngine, "describe", lambda self, model: replace(unlimited(self, model), context_length=None)
    )
    with_answers(monkeypatch, gold_answer)
    gold = run(questions("name=gold", *overrides)).cells
    assert gold[["n_scored", "exact_match", "f1"]].to_numpy().tolist() == [[5774, 1.0, 1.0]]
    assert gold["n_clusters"].item() == sum(bool(p["qas"]) for a in data for p in a["paragraphs"]) == 963
    with_answers(monkeypatch, lambda prompt: prompt[:10])
    first = run(questions("name=first", *overrides)).cells
    em, f1 = official_scores({q["id"]: c[:10] for c, q in rows}, golds_of(REAL / "KorQuAD_v1.0_dev.json"))
    assert 0 < em < f1 < 1
    assert first["exact_match"].item() == pytest.approx(em, abs=1e-9)
    assert first["f1"].item() == pytest.approx(f1, abs=1e-9)


def test_one_prompt_that_fails_is_that_samples_record_only(monkeypatch, questions, quiet_questions):
    quiet = quiet_questions
    whole = LoadedModel.generate

    def generate(self, prompts, ending):
        if any(len(prompt.ids) == longest for prompt in prompts):
            raise RuntimeError("poison")
        return whole(self, prompts, ending)

    longest = int(quiet["n_prompt_tokens"].max())
    monkeypatch.setattr(LoadedModel, "generate", generate)
    records = load_records(run(questions("name=hit")).run_dir)
    failed = records["error"].notna()
    assert failed.sum() == (quiet["n_prompt_tokens"] == longest).sum()
    assert set(records[failed]["error_type"]) == {"RuntimeError"}
    assert records[failed]["exact_match"].isna().all()
    assert (records[~failed]["answer"] == quiet[~failed]["answer"]).all()
    cells = summarise(f"{Path(questions().out) / 'hit'}")
    assert cells["n_failed"].sum() == failed.sum()


def test_classes_written_by_the_model_are_the_arg_max_shortcut(small_grid):
    """The lecture's measure, once by generating and once read off the scoring pass."""
    scored = load_records(run(small_grid("name=scored")).run_dir)
    written = load_records(run(small_grid("name=written", "scoring=generate")).run_dir)
    single = (scored["label_token_counts"].map(max) == 1).to_numpy()
    assert single.sum() > 100
    assert (scored["greedy_prediction"].fillna(-1)[single] == written["prediction"][single]).all()
    assert set(written["prediction"]) <= {-1, 0, 1}
    assert (written["argmax_token"].isna()).all()
    assert len(set(written["raw_answer"])) > 1


def test_written_classes_have_figures_and_no_label_counts_as_wrong(small_grid, monkeypatch):
    with_answers(monkeypatch, lambda prompt: " 긍정" if "ㅋ" in prompt else "글쎄")
    result = run(small_grid("scoring=generate", "grid.templates=[lecture_1]", "grid.k=[0]"))
    records, cell = load_records(result.run_dir), result.cells.iloc[0]
    right = (records[records["seed"] == 1]["prediction"] == records[records["seed"] == 1]["gold"]).mean()
    assert cell["n_scored"] == cell["n_attempted"] == 36
    assert cell["accuracy"] == right
    assert -1 in set(records["prediction"])


def test_scoring_labels_of_a_task_without_labels_is_refused(questions):
    with pytest.raises(ConfigError, match="task 'korquad1' has no labels; use generate or auto"):
        run(questions("scoring.method=likelihood"))


def test_a_prompt_that_leaves_no_room_for_its_answer_is_refused(questions):
    config = questions("generation.max_new_tokens=2000")
    with pytest.raises(ContextError, match="has a context of 2048"):
        run(config)


def test_answers_are_independent_of_shards(questions):
    small = ("grid.templates=[english]", "generation.max_new_tokens=4")
    one, two = run(questions("name=one", *small)), run(questions("name=two", "cluster.shard_size=5", *small))
    left, right = load_records(one.run_dir), load_records(two.run_dir)
    assert (left["answer"] == right["answer"]).all()
    assert np.array_equal(left["f1"], right["f1"])
