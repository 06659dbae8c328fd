"""`harness init`: from an unknown table to a grid that runs, by looking at it."""

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.config.loading import load_config
from harness.core.errors import ConfigError, DataError
from harness.planning.preparation import prepare
from tests.conftest import KO_TINY, SHARED
from tests.test_table import ROWS, WRITERS, as_csv, as_sheet

KINDS = ("문의", "불만: #1", "칭찬 {좋음}")
MAIL = [{"번호": n, "메일": f"문의 {n}번, {{중괄호}}와 '따옴표'", "분류": KINDS[n % 3]} for n in range(30)]


def init(folder, place, *words):
    """The files' names and what was printed."""
    done = CliRunner().invoke(app, ["init", str(place), "--to", str(folder / "made"), *words])
    if done.exception is not None:
        raise done.exception
    return sorted(path.name for path in (folder / "made").iterdir()), done.stdout


def prepared(folder, stem):
    return prepare(load_config(folder / "made" / f"{stem}_grid.yaml", [f"model.path={KO_TINY}"]))


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "saved"])
def test_a_table_becomes_a_grid_that_can_be_planned(tmp_path, name):
    WRITERS[name](tmp_path / name)
    stem = name.split(".")[0]
    files, told = init(tmp_path, tmp_path / name)
    assert files == [f"{stem}_grid.yaml", f"{stem}_templates.yaml"]
    assert "label: 감정, 3 classes: bad (3), good (4), soso (3)" in told
    assert "id: 번호" in told and "text: 리뷰" in told
    run = prepared(tmp_path, stem)
    assert run.task.class_names == ("bad", "good", "soso")
    assert list(run.templates) == ["question", "short", "english"]
    assert {s.id for s in run.data.samples} < {row["번호"] for row in ROWS}


def test_names_with_braces_colons_and_quotes_stay_what_they_are(tmp_path):
    pd.DataFrame(MAIL).to_csv(tmp_path / "mail.csv", index=False)
    init(tmp_path, tmp_path / "mail.csv")
    run = prepared(tmp_path, "mail")
    assert run.task.class_names == KINDS
    assert run.templates["short"].labels == (" 문의", " 불만: #1", " 칭찬 {좋음}")
    assert run.templates["question"].prefix.startswith("다음 글은 문의, 불만: #1, 칭찬 {{좋음}}")


def test_every_line_that_decides_says_what_it_does(tmp_path):
    pd.DataFrame(MAIL * 60).assign(번호=range(1800)).to_csv(tmp_path / "mail.csv", index=False)
    init(tmp_path, tmp_path / "mail.csv")
    text = (tmp_path / "made" / "mail_grid.yaml").read_text(encoding="utf-8")
    for key in ("name", "limit", "classes", "id", "fields", "pool_share", "k", "seeds", "max_tokens"):
        assert [line for line in text.splitlines() if line.strip().startswith(f"{key}:") and "#" in line], key


def test_answers_make_a_task_whose_answers_are_written(tmp_path):
    rows = [{"q": f"{n} 더하기 {n}은 얼마인가요?", "a": [str(2 * n), f"{2 * n}입니다"]} for n in range(20)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _, told = init(tmp_path, tmp_path / "sums.jsonl", "--answer", "a")
    assert "answer: a" in told
    run = prepared(tmp_path, "sums")
    assert run.method == "generate"
    assert run.data.samples[0].answers[1].endswith("입니다")


def test_a_file_named_train_gives_the_demonstrations(tmp_path):
    (tmp_path / "mail").mkdir()
    for name, rows in (("train", MAIL[:20]), ("test", MAIL[20:])):
        pd.DataFrame(rows).to_csv(tmp_path / "mail" / f"{name}.csv", index=False)
    _, told = init(tmp_path, tmp_path / "mail")
    assert "demonstrations: from" in told and "train.csv" in told
    assert len(prepared(tmp_path, "mail").data.pool) == 20


def test_a_chat_template_is_written_when_it_is_asked_for(tmp_path):
    pd.DataFrame(MAIL).to_csv(tmp_path / "mail.csv", index=False)
    init(tmp_path, tmp_path / "mail.csv", "--chat")
    assert load_config(tmp_path / "made" / "mail_grid.yaml").grid.templates[-1] == "chat"
    assert "render: chat" in (tmp_path / "made" / "mail_templates.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("rows", "words", "message"),
    [
        ([{"a": "가", "b": "나"}] * 9, (), "which column is the label cannot be told; name it with --label"),
        (MAIL, ("--label", "분루"), r"--label is '분루', but the table has no such column; did you mean '분류'"),
        (MAIL, ("--label", "번호"), r"30 different labels in 30 rows; is it an id or a text"),
        (MAIL, ("--label", "분류", "--answer", "메일"), "--label and --answer are both given"),
        ([{"y": n % 2, "z": n % 3} for n in range(12)], ("--label", "y"), "no column of texts beside the label"),
    ],
)
def test_what_cannot_be_told_ends_in_one_line(tmp_path, rows, words, message):
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises((ConfigError, DataError), match=message):
        init(tmp_path, tmp_path / "t.csv", *words)
    assert not (tmp_path / "made").exists()


def test_a_column_of_another_annotators_labels_is_no_text_to_show(tmp_path):
    labels = ["entailment", "neutral", "contradiction"] * 8
    rows = [
        {"premise": f"문장 {i}번입니다", "gold": label, "label5": labels[(i * 5) % 24]}
        for i, label in enumerate(labels)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "pairs.csv", index=False)
    done = CliRunner().invoke(app, ["init", str(tmp_path / "pairs.csv"), "--label", "gold", "--to", str(tmp_path)])
    assert done.exit_code == 0
    assert "text: premise" in done.output
    assert "not used: label5" in done.output
    assert "label5" not in (tmp_path / "pairs_templates.yaml").read_text(encoding="utf-8")


def test_nothing_is_overwritten(tmp_path):
    as_csv(tmp_path / "t.csv")
    init(tmp_path, tmp_path / "t.csv")
    with pytest.raises(ConfigError, match="is there already; move it away"):
        init(tmp_path, tmp_path / "t.csv")


def test_a_sheet_is_looked_at_too(tmp_path):
    as_sheet(tmp_path / "sheet.xlsx")
    assert "label: 감정, 3 classes" in init(tmp_path, tmp_path / "sheet.xlsx")[1]


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [("klue_nli", ("entailment", "contradiction", "neutral"), 300), ("klue_sts", ("different", "same"), 467)],
)
def test_korean_tasks_by_name_load(name, classes, count):
    folder = SHARED / "data" / "klue"
    if not folder.is_dir():
        pytest.skip("no KLUE files: ../shared/data/klue beside the repository is absent")
    run = prepare(load_config(f"configs/{name}.yaml", [f"task.data_dir={folder}", f"model.path={KO_TINY}"]))
    assert run.task.class_names == classes
    assert len(run.data.samples) == count


QUIZ = [
    {"no": n, "질문": f"{n} 더하기 1은 얼마인가요?", "A": f"답 {n}", "B": f"답 {n + 1}", "C": "모름", "정답": "B"}
    for n in range(20)
]


@pytest.mark.parametrize("words", [("--choices", "A,B,C"), ("--choices", "A", "--choices", "B", "--choices", "C")])
def test_choices_make_questions_with_letters_numbers_and_texts(tmp_path, words):
    pd.DataFrame(QUIZ).to_csv(tmp_path / "quiz.csv", index=False)
    _, told = init(tmp_path, tmp_path / "quiz.csv", *words, "--chat")
    assert "choices: A, B, C, 3 at most; 정답 holds letters of choices" in told
    run = prepare(
        load_config(
            tmp_path / "made" / "quiz_grid.yaml", [f"model.path={KO_TINY}", "grid.templates=[letters,circled,cloze]"]
        )
    )
    assert run.task.choices and run.task.class_names == ("1", "2", "3")
    assert run.config.task.options.answer_is == "letter"
    sample = next(s for s in [*run.data.samples, *run.data.pool] if s.id == "3")
    assert (sample.choices, sample.gold) == (("답 3", "답 4", "모름"), 1)
    assert run.templates["letters"].render_query(sample) == (
        "3 더하기 1은 얼마인가요?\nA. 답 3\nB. 답 4\nC. 모름\n정답:"
    )
    assert run.templates["cloze"].labels_of(sample) == (" 답 3", " 답 4", " 모름")
    text = (tmp_path / "made" / "quiz_templates.yaml").read_text(encoding="utf-8")
    assert "render: chat" in text and "generation" not in (tmp_path / "made" / "quiz_grid.yaml").read_text("utf-8")


def test_answers_that_may_mean_two_choices_are_told(tmp_path):
    rows = [{"q": f"{n}번 문제는?", "보기": ["1", "2", "3"], "정답": 2} for n in range(9)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _, told = init(tmp_path, tmp_path / "t.jsonl", "--choices", "보기")
    assert "CHECK: 정답 may hold numbers of choices counted from 0 as well; then set answer_is to 0" in told
    assert '    answer_is: "text"  # texts of choices, or numbers' in (tmp_path / "made" / "t_grid.yaml").read_text(
        "utf-8"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--choices", "A,D"), r"--choices is 'D', but the table has no such column"),
        (("--choices", "A,B", "--label", "C"), "--label and --choices are both given"),
        (("--choices", "A,정답"), "which column says what choice is right cannot be told; name it with --answer"),
    ],
)
def test_choices_that_cannot_be_told_end_in_one_line(tmp_path, words, message):
    pd.DataFrame(QUIZ).to_csv(tmp_path / "quiz.csv", index=False)
    with pytest.raises((ConfigError, DataError), match=message):
        init(tmp_path, tmp_path / "quiz.csv", *words)
