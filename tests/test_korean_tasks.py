"""Korean tasks by name: each configuration on rows in its published columns, prompts to the letter."""

import pandas as pd
import pytest

from harness.config.loading import load_config
from harness.planning.preparation import prepare
from harness.planning.report import make_report
from tests.conftest import KO_TINY, REPO

BOOLQ = {"paragraph": "로마는 {수도}이다.", "question": "로마는 수도인가?", "label": 1}
COPA = {
    "premise": "비가 왔다.",
    "question": "결과",
    "alternative_1": "땅이 젖었다.",
    "alternative_2": "해가 떴다.",
    "label": 0,
}
WIC = {"word": "배", "context_1": "배를 먹다.", "context_2": "배를 타다.", "label": 0}
HELLASWAG = {"context": "문을 열고", **{f"ending_{n}": f"들어간다 {n}." for n in range(1, 5)}, "label": 2}
KMMLU = {"question": "옳은 것은?", "answer": 3, "A": "가", "B": "나", "C": "다", "D": "라", "Category": "Accounting"}
TASKS = {
    "kobest_boolq": (BOOLQ, "boolq", "로마는 {수도}이다. 질문: 로마는 수도인가? 답변:", ["  아니오", "  예"], 1),
    "kobest_copa": (COPA, "copa", "비가 왔다.  그래서", [" 땅이 젖었다.", " 해가 떴다."], 0),
    "kobest_wic": (
        WIC,
        "wic",
        "문장1: 배를 먹다. 문장2: 배를 타다. 두 문장에서 배가 같은 뜻으로 쓰였나?",
        [" 아니오", " 예"],
        0,
    ),
    "kobest_hellaswag": (HELLASWAG, "hellaswag", "문장: 문을 열고", [f" 들어간다 {n}." for n in range(1, 5)], 2),
    "kobest_sentineg": (
        {"sentence": "나쁘지 않다", "label": 1},
        "sentineg",
        "문장: 나쁘지 않다 긍부정:",
        [" 부정", " 긍정"],
        1,
    ),
    "haerae": (
        {"query": "뜻은?\n(A) 가 (B) 나\n정답:", "options": "[]", "answer": "(B)"},
        "query",
        "뜻은?\n(A) 가 (B) 나\n정답:",
        [f" ({letter})" for letter in "ABCDE"],
        1,
    ),
    "kmmlu": (KMMLU, "letters", "옳은 것은?\nA. 가\nB. 나\nC. 다\nD. 라\n정답：", [f" {c}" for c in "ABCD"], 2),
    "kormedmcqa": (
        {**KMMLU, "E": "마", "subject": "doctor", "year": 2022},
        "letters",
        "옳은 것은?\nA. 가\nB. 나\nC. 다\nD. 라\nE. 마\n정답：",
        [f" {c}" for c in "ABCDE"],
        2,
    ),
    "klue_ynat": (
        {"guid": "ynat-v1_dev_0", "title": "새 휴대전화 공개", "label": "IT과학", "predefined_news_category": "IT과학"},
        "headline",
        "제목: 새 휴대전화 공개\n주제:",
        [" IT과학", " 경제", " 사회", " 생활문화", " 세계", " 스포츠", " 정치"],
        0,
    ),
}


def rows_of(row, n):
    """Rows like one; all but the first have other texts."""
    kept = {"guid", "label", "answer", "options", *(["question"] if row is COPA else [])}
    rows = [
        {
            key: f"{value} {i}" if i and isinstance(value, str) and key not in kept else value
            for key, value in row.items()
        }
        for i in range(n)
    ]
    return pd.DataFrame([{**one, "guid": f"g{i}"} if "guid" in row else one for i, one in enumerate(rows)])


@pytest.fixture
def prepared_task(tmp_path):
    def prepared(name, *words):
        row = TASKS[name][0]
        rows_of(row, 6).to_parquet(tmp_path / "test-00000-of-00001.parquet")
        rows_of(row, 9).tail(3).to_parquet(tmp_path / "train-00000-of-00001.parquet")
        return load_config(
            REPO / "configs" / f"{name}.yaml",
            [f"task.data_dir={tmp_path}", f"model.path={KO_TINY}", "grid.k=[0,2]", *words],
        )

    return prepared


@pytest.mark.parametrize("name", TASKS)
def test_prompts_and_labels_are_those_published(prepared_task, name):
    _, template, text, labels, gold = TASKS[name]
    prepared = prepare(prepared_task(name))
    assert (len(prepared.data.samples), len(prepared.data.pool)) == (6, 3)
    sample = prepared.data.samples[0]
    prompt, shown = prepared.renderer(prepared.models[0], template, 1).prompts([sample], 1, [0, 2])
    assert (prompt.text, list(prompt.labels), sample.gold) == (text, labels, gold)
    solved = prepared.template(template).render_solved(sample)
    assert solved.startswith(text) and solved.rstrip("\n") == text + labels[gold]
    assert shown.text.endswith(text) and len(shown.text) > 2 * len(text)
    for one in (prompt, shown):
        assert [(one.ids, list(ids)) for ids in one.label_ids] == [
            as_lm_evaluation_harness(prepared.models[0].tokenizer.tokenizer, one.text + moved(text, template), label)
            for label in (own.removeprefix(moved(text, template)) for own in labels)
        ]


def moved(text, template):
    """The space that BoolQ's query ends with."""
    return " " if template == "boolq" else ""


def as_lm_evaluation_harness(tokenizer, context, continuation):
    """Its `_encode_pair`, written again."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        continuation, context = context[-spaces:] + continuation, context[:-spaces]
    whole = tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    alone = tokenizer(context, add_special_tokens=False)["input_ids"]
    return alone, whole[len(alone) :]


def test_the_split_is_the_one_of_lm_evaluation_harness(ko_tokenizer):
    model = pytest.importorskip("lm_eval.api.model", reason="pip install -e '.[bench]'")
    from types import SimpleNamespace

    causal = SimpleNamespace(backend="causal", tok_encode=lambda text: ko_tokenizer(text)["input_ids"])
    for context, label in (("답변: ", " 예"), ("답변:", "예"), ("a\n\n", "b"), ("가", "나다")):
        assert model.TemplateLM._encode_pair(causal, context, label) == as_lm_evaluation_harness(
            ko_tokenizer, context, label
        )


def test_the_texts_are_those_of_lm_evaluation_harness():
    utils = pytest.importorskip("lm_eval.tasks.kobest.utils", reason="pip install -e '.[bench]'")
    for name, text in (
        ("copa", utils.copa_doc_to_text),
        ("wic", utils.wic_doc_to_text),
        ("sentineg", utils.sentineg_doc_to_text),
    ):
        row, _, expected, _, _ = TASKS[f"kobest_{name}"]
        assert text(row) == expected
    assert [f" {choice}" for choice in utils.copa_doc_to_choice(COPA)] == TASKS["kobest_copa"][3]


@pytest.mark.parametrize("name", TASKS)
def test_every_template_can_be_planned(prepared_task, name):
    report = make_report(prepared_task(name))
    assert len(report.audits) == len(report.examples)
    exact = {audit.template for audit in report.audits if audit.merged is not None}
    assert exact == (set() if name == "klue_ynat" else set(report.examples))
    assert {audit.moved for audit in report.audits} == ({" "} if name == "kobest_boolq" else {""})
