"""Columns that give the answer away: `init` shows none to the model, and a run names the fields that do."""

import json
import unicodedata

import pytest

from harness.config.loading import config_from
from harness.core.giveaways import is_answer, names_classes
from harness.core.task import Sample, StartWishes, TaskData
from harness.planning.preparation import prepare
from harness.planning.sample_notes import notes_on_spelling
from tasks.table_init import start
from tests.conftest import KO_TINY

WORDS = ["정치 소식", "경제 소식", "사회 소식"]
HEADLINES = [
    {"제목": f"{n}번째 기사의 제목", "label": n % 3, "label_name": WORDS[n % 3], "지역": ["서울", "부산"][n // 3 % 2]}
    for n in range(60)
]
LETTERS = "ABCD"
QUESTIONS = [
    {
        "question": f"다음 가운데 {n}보다 큰 수는?",
        **{letter: f"답이 될 말 {n + place}" for place, letter in enumerate(LETTERS)},
        "answer": LETTERS[n % 4],
        "answer_text": f"답이 될 말 {n + n % 4}",
        "chapter": ["수의 크기", "수의 순서"][n % 2],
    }
    for n in range(40)
]
WRITTEN = [{"질문": f"수도 {n}은?", "답": f"도시 이름 {n}", "모범 답안": f"도시 이름 {n}"} for n in range(40)]


def written(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("rows", "wishes", "shown", "left_out"),
    [
        (HEADLINES, StartWishes(label="label"), ["제목", "지역"], "label_name"),
        (QUESTIONS, StartWishes(answer="answer", choices=tuple(LETTERS)), ["question", "chapter"], "answer_text"),
        (WRITTEN, StartWishes(answer="답"), ["질문"], "모범 답안"),
    ],
)
def test_a_first_grid_shows_no_other_column_of_answers(tmp_path, rows, wishes, shown, left_out):
    starter = start(written(tmp_path / "t.jsonl", rows), wishes)
    fields = next(line for line in starter.grid.splitlines() if line.strip().startswith("fields:"))
    assert all(f'"{name}"' in fields for name in shown[:1]) and left_out not in fields
    assert any(line.startswith("not used: ") and left_out in line for line in starter.understood)


def prepared(tmp_path, rows, template, **options):
    (tmp_path / "t.yaml").write_text(f"one: {{query: {json.dumps(template[0])}, {template[1]}}}", encoding="utf-8")
    task = {
        "name": "table",
        "data_dir": str(written(tmp_path / "t.jsonl", rows)),
        "templates_file": str(tmp_path / "t.yaml"),
        "options": options,
    }
    given = {"model": {"path": str(KO_TINY)}, "task": task, "grid": {"templates": ["one"], "k": [0]}}
    return prepare(config_from({**given, "demos": {"max_tokens": None}}))


@pytest.mark.parametrize(
    ("rows", "template", "options", "note"),
    [
        (HEADLINES, ("{제목} ({label_name})", "labels: [' 가', ' 나', ' 다']"), {"label": "label"},
         "the field 'label_name' has 3 texts, each with one class alone: the templates that name it (one) show"),
        (QUESTIONS, ("{question} {answer_text}\n{choices}", "choices: {markers: A}"),
         {"choices": list(LETTERS), "answer": "answer"}, "the field 'answer_text' is the right answer: the templates"),
        (WRITTEN, ("{질문} {모범_답안}", "answer: ' {answer}'"), {"answer": "답"},
         "the field '모범_답안' is the right answer: the templates that name it (one) show the answer"),
    ],
)  # fmt: skip
def test_a_field_that_tells_the_answer_is_named(tmp_path, rows, template, options, note):
    assert any(found.startswith(note) for found in prepared(tmp_path, rows, template, **options).notes)


def test_a_field_that_no_template_names_or_that_says_something_is_not(tmp_path):
    labels = "labels: [' 가', ' 나', ' 다']"
    notes = prepared(tmp_path, HEADLINES, ("{제목} ({지역})", labels), label="label").notes
    assert not any("show the answer" in note for note in notes)


def test_what_is_chance_and_what_is_not():
    assert names_classes(["a", "b"] * 4, ["0", "1"] * 4)
    assert names_classes(["a", "b", "c"] * 4, ["0", "1", "1"] * 4)
    assert not names_classes(["a", "b"] * 4, ["0", "1", "0", "1", "0", "1", "1", "1"])
    assert not names_classes(["a", "b"], ["0", "1"])
    assert not names_classes(["a", "b"] * 4, ["0"] * 8)
    assert not names_classes(["a"] * 8, ["0", "1"] * 4)
    assert not names_classes([str(n) for n in range(60)] * 4, [str(n % 2) for n in range(60)] * 4)
    assert (
        is_answer(["가 ", "나"], ["가", "나"]) and not is_answer(["가", "다"], ["가", "나"]) and not is_answer([], [])
    )


LABELS = "labels: [' 가', ' 나']"


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        ([("같은 글", n % 2) for n in range(2)] + [(f"글 {n}", n % 2) for n in range(98)],
         "1 of 100 samples ask what others ask too; intervals take samples as independent; 2 with the same texts"),
        ([("같은 글", 1)] * 10 + [(f"글 {n}", n % 2) for n in range(90)], "9 of 100 samples ask what others ask too"),
        ([("같은 글", 1)] * 4 + [(f"글 {n}", n % 2) for n in range(96)], None),
    ],
)  # fmt: skip
def test_samples_that_ask_the_same_are_counted(tmp_path, rows, note):
    rows = [{"id": n, "t": text, "y": y} for n, (text, y) in enumerate(rows)]
    written(tmp_path / "train.jsonl", [{"id": n, "t": f"보기 {n}", "y": n % 2} for n in range(4)])
    (tmp_path / "one.yaml").write_text(f"one: {{query: '{{t}}', {LABELS}}}", encoding="utf-8")
    task = {
        "name": "table", "data_dir": str(tmp_path), "templates_file": str(tmp_path / "one.yaml"),
        "options": {"label": "y", "test": written(tmp_path / "test.jsonl", rows).name, "pool": "train.jsonl"},
    }  # fmt: skip
    given = {"model": {"path": str(KO_TINY)}, "task": task, "grid": {"templates": ["one"], "k": [0]}}
    notes = prepare(config_from({**given, "demos": {"max_tokens": None}})).notes
    found = [one for one in notes if "ask what others ask" in one]
    assert len(found) == (note is not None) and all(one.startswith(note) for one in found)


@pytest.mark.parametrize("part", ["fields", "answers", "choices"])
def test_decomposed_hangul_of_any_task_is_counted(part):
    apart = unicodedata.normalize("NFD", "서울")
    parts = {"fields": {"q": "물음"}, "answers": ("답",), "choices": ("가", "나")}
    odd = {**parts, part: {"q": apart} if part == "fields" else (apart, "나")}
    samples = [Sample("a", **parts), Sample("b", **odd)]
    (note,) = notes_on_spelling(TaskData(samples, samples[:1], "q"))
    assert note.startswith("1 samples and demonstrations hold decomposed Hangul (NFD)")
    assert notes_on_spelling(TaskData(samples[:1], samples[:1], "q")) == ()
