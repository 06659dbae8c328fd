"""Metrics that would give a number without a meaning: of classes in no order, of right answers that are no number, of
texts of which only punctuation differs."""

import json

import pytest

from harness.config.loading import config_from
from harness.core.errors import ConfigError
from harness.core.numerals import number_of, numbers_in
from harness.planning.preparation import prepare
from tasks.table import same_answer
from tests.conftest import KO_TINY


def prepared(tmp_path, rows, template, metrics, **options):
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "t.yaml").write_text(f"t: {{query: '{{q}} 답:', {template}}}", encoding="utf-8")
    task = {
        "name": "table",
        "data_dir": str(tmp_path / "t.jsonl"),
        "templates_file": str(tmp_path / "t.yaml"),
        "options": {"fields": ["q"], **options},
    }
    given = {"model": {"path": str(KO_TINY)}, "task": task, "grid": {"templates": ["t"], "k": [0]}}
    return prepare(config_from({**given, "scoring": {"metrics": metrics}, "demos": {"max_tokens": None}}))


GRADES = ["나쁨", "보통", "좋음", "매우 좋음"]


@pytest.mark.parametrize("metric", ["mae", "spearman"])
def test_metrics_by_order_refuse_classes_that_nobody_put_in_order(tmp_path, metric):
    rows = [{"q": f"글 {n}", "y": GRADES[n % 4]} for n in range(12)]
    labels = "labels: [' 나', ' 다', ' 라', ' 마']"
    with pytest.raises(ConfigError, match="by the alphabet: 나쁨, 매우 좋음, 보통, 좋음; list them in their order"):
        prepared(tmp_path, rows, labels, [metric], label="y")
    assert prepared(tmp_path, rows, labels, [metric], label="y", classes=GRADES).task.class_names == tuple(GRADES)
    assert prepared(tmp_path, rows, labels, ["kappa"], label="y").task.class_names == tuple(sorted(GRADES))
    numbers = [{"q": f"글 {n}", "y": str(10 * (n % 4))} for n in range(12)]
    assert prepared(tmp_path, numbers, labels, [metric], label="y").task.class_names == ("0", "10", "20", "30")
    two = [{"q": f"글 {n}", "y": GRADES[n % 2]} for n in range(12)]
    prepared(tmp_path, two, "labels: [' 나', ' 다']", [metric], label="y")


def test_right_answers_that_are_no_single_number_are_counted(tmp_path):
    golds = ["3", "열둘", "3 또는 4", ".5", "없음", "1/2"]
    rows = [{"q": f"글 {n}", "a": gold} for n, gold in enumerate(golds * 2)]
    found = prepared(tmp_path, rows, "answer: ' {answer}'", ["same_number"], answer="a", pool_share=0.001)
    (note,) = [note for note in found.notes if note.startswith("same_number")]
    asked = [sample.answers[0] for sample in found.data.samples]
    counts = [len(numbers_in(gold)) for gold in asked]
    assert f"of {len(asked)} samples {counts.count(0)} have no number" in note and counts.count(0) >= 3
    assert f"{counts.count(2)} have several, of which the last counts" in note
    assert not any("same_number" in n for n in prepared(tmp_path, rows, "answer: ' {answer}'", [], answer="a").notes)


@pytest.mark.parametrize(
    ("answer", "gold", "value"),
    [
        ("35", "3.5", 0.0),
        ("3.5", "3.5", 1.0),
        ("3.50", "3.5", 0.0),  # as texts they differ; same_number takes them as equal
        ("5", "-5", 0.0),
        ("-5.", "-5", 1.0),
        ("1000", "1,000", 1.0),
        ("$1,000", "1000", 1.0),
        ("12", "1/2", 0.0),
        ("-", "+", 0.0),
        ("", "+", 0.0),
        (" + ", "+", 1.0),
        ("서울.", "서울", 1.0),
        ("3월 1일", "3월 1일.", 1.0),
        ("「서울」", "서울", 0.0),
    ],
)
def test_exact_match_of_tables_keeps_what_numbers_and_signs_are_made_of(answer, gold, value):
    assert same_answer(answer, gold) == value


def test_numbers():
    assert numbers_in("10-20, .5, 1/2") == [10, 20, number_of("0.5"), number_of("1/2")]
    assert number_of("1/2") == number_of(" .50 ") and number_of("3개") is None and number_of("1/0") is None
