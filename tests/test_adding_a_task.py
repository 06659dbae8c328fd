"""The examples of docs/adding_a_task.md work as printed there, for a user outside the repository."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from harness import load_records, run
from harness.config.loading import load_config
from harness.core.errors import ConfigError
from harness.core.task import LabelScores, Task, registered_tasks
from harness.planning.preparation import Prepared, prepare
from tests import forked
from tests.conftest import KO_TINY, REPO

GUIDE = (REPO / "docs" / "adding_a_task.md").read_text(encoding="utf-8")
CLASSES = ["complaint", "question", "praise"]
MAILS = {
    "complaint": [
        "화면이 깨져서 왔어요",
        "환불이 아직 안 됐어요",
        "포장이 다 젖어 있었어요",
        "전화를 아무도 안 받아요",
    ],
    "question": ["영업시간이 어떻게 되나요", "다른 색도 있나요", "선물 포장이 되나요", "어디로 보내면 되나요"],
    "praise": ["색이 정말 예뻐요", "생각보다 빨리 왔어요", "덕분에 잘 샀습니다", "또 주문할게요"],
}
CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>{{ '\n' }}"


def blocks_by_file() -> dict[str, str]:
    """The code blocks whose heading names a file."""
    found = re.findall(r"^#+ [^\n]*`([\w.]+\.(?:py|yaml))`\n\n```\w+\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return dict(found)


def printed_rows(key: str) -> list[dict]:
    """The data rows that the guide prints, of the example whose rows have a key."""
    rows = [json.loads(line) for line in re.findall(r"^    (\{.*\})$", GUIDE, re.MULTILINE)]
    return [row for row in rows if key in row]


def printed_commands(name: str) -> list[list[str]]:
    """The commands of one example in the order printed: those that name its configuration or run directory."""
    lines = re.findall(r"^    harness (.*)$", GUIDE, re.MULTILINE)
    return [shlex.split(line) for line in lines if f"{name}.yaml" in line or f"/{name}" in line]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def call(folder: Path, *arguments: str) -> str:
    """Standard output of `python -m harness` in a folder, with the embedded model for the guide's."""
    words = [word.replace("/models/my-model", str(KO_TINY)) for word in arguments]
    if words[0] == "run":
        words.append("cluster.address=inline")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = forked.run([sys.executable, "-m", "harness", *words], cwd=folder, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def call_all(folder: Path, name: str) -> dict[str, str]:
    """Verb to output of every command that the guide prints for an example."""
    return {command[0]: call(folder, *command) for command in printed_commands(name)}


def shown(csv: str) -> pd.DataFrame:
    """What `show --format csv` printed, by template, K and seed."""
    return pd.read_csv(io.StringIO(csv)).set_index(["template", "k", "seed"])


def write_mail(folder: Path) -> None:
    """Nine solved mails and six to be sorted, in the documented format."""
    (folder / "mail_data").mkdir()
    rows = [{"id": f"m{kind}{i}", "text": t, "label": kind} for kind, ts in MAILS.items() for i, t in enumerate(ts)]
    printed = printed_rows("label")
    assert [row["label"] for row in printed] == CLASSES
    write_rows(folder / "mail_data" / "train.jsonl", printed + [row for i, row in enumerate(rows) if i % 4 < 2])
    write_rows(folder / "mail_data" / "test.jsonl", [row for i, row in enumerate(rows) if i % 4 >= 2])


def notice_rows() -> tuple[list[dict], list[dict]]:
    """Solved questions, and questions to be answered; one office has both."""
    asked = []
    for n, office in enumerate(["도서관", "주민센터", "주민센터"]):
        notice = f"{office} 안내 {n}: 행사 신청은 {n + 4}월 10일에 시작하고 행사는 {n + 5}월 2일에 열립니다."
        for i, (question, date) in enumerate([("신청은 언제 시작하나요?", "10일"), ("행사는 언제인가요?", "2일")]):
            answers = [f"{n + 4 + i}월 {date}"]
            names = {"id": f"t{n}{i}", "notice_id": f"tn{n}", "office": office}
            asked.append({**names, "notice": notice, "question": question, "answers": answers})
    solved = {
        "id": "s",
        "notice_id": "s",
        "office": "우체국",
        "question": "우체국은 언제 쉬나요?",
        "answers": ["10월 3일"],
    }
    return [
        *printed_rows("notice_id"),
        {**solved, "notice": "우체국은 10월 3일에 쉬고 그 밖의 날에는 문을 엽니다."},
    ], asked


def run_mail(folder: Path) -> dict[str, str]:
    write_mail(folder)
    return call_all(folder, "mail")


def write_notices(folder: Path) -> None:
    """Questions whose right answers are, for every second one, what the model says.

    The embedded model was not trained to answer: right answers of our own would all be missed.
    """
    (folder / "notice_data").mkdir()
    solved, asked = notice_rows()
    write_rows(folder / "notice_data" / "train.jsonl", solved)
    write_rows(folder / "notice_data" / "test.jsonl", asked)
    small = ["name=heard", "cluster.address=inline", "grid.templates=[plain]", "grid.k=[0]", "grid.seeds=[1]"]
    result = run("notices.yaml", [f"model.path={KO_TINY}", *small])
    heard = load_records(result.run_dir).set_index("sample_id")["answer"]
    for row in asked[::2]:
        row["answers"].append(f" {heard[row['id']]} ")
    write_rows(folder / "notice_data" / "test.jsonl", asked)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that holds the files which the guide prints, and nothing of the repository."""
    folder = tmp_path_factory.mktemp("user")
    for name, text in blocks_by_file().items():
        (folder / name).write_text(text, encoding="utf-8")
    yield folder
    for module in ("my_task", "notice_task"):
        sys.modules.pop(module, None)


@pytest.fixture(scope="module")
def outputs(folder):
    """Example to (verb to output). Both run at once, since starting Python takes most of the time."""
    with ThreadPoolExecutor(1) as thread, pytest.MonkeyPatch.context() as patch:
        mail = thread.submit(run_mail, folder)
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        write_notices(folder)
        return {"notices": call_all(folder, "notices"), "mail": mail.result()}


@pytest.fixture
def prepared(outputs, folder, monkeypatch):
    """A function from a configuration of the guide and overrides to what a run would start from."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))

    def make(name: str, *overrides: str) -> Prepared:
        return prepare(load_config(name, [f"model.path={KO_TINY}", *overrides]))

    return make


def test_a_source_tree_that_is_not_installed_knows_its_tasks(monkeypatch):
    monkeypatch.setattr("harness.core.entry_points.installed", lambda group, path: ())
    assert {"nsmc", "korquad1", "korquad2"} <= set(registered_tasks())


def test_the_guide_prints_two_whole_examples():
    files = {"my_task.py", "my_task.yaml", "mail.yaml", "notice_task.py", "notice_task.yaml", "notices.yaml"}
    assert set(blocks_by_file()) == files
    assert [command[0] for command in printed_commands("mail")] == ["plan", "run", "show"]
    assert [command[0] for command in printed_commands("notices")] == ["plan", "run", "show", "export"]


def test_a_task_with_classes_is_planned_run_and_shown(outputs, folder):
    out = outputs["mail"]
    for template in ("plain", "english"):
        assert f"boundary ok: {template}" in out["plan"]
    assert "종류: 문의\n" in out["plan"].split("--- plain ---")[1]
    records = load_records(str(folder / "data_out" / "mail"))
    assert len(records) == 6 * 2 * 3 * 2
    assert records["error"].isna().all()
    assert set(records["gold"]) == {0, 1, 2}
    assert set(records["label_logprobs"].map(len)) == {3}
    best = records["label_logprobs"].map(lambda values: int(max(range(3), key=lambda i: values[i])))
    assert (records["prediction"] == best).all()
    assert records["off_label_mass"].between(0, 1).all()


def test_the_tasks_own_figure_is_shown_beside_the_accuracy(outputs, folder):
    cells = shown(outputs["mail"]["show"])
    assert len(cells) == 2 * 3 * 2
    records = load_records(str(folder / "data_out" / "mail"))
    for key, cell in records.groupby(["template", "k", "seed"]):
        complaints = cell[cell["gold"] == 0]
        assert cells.loc[key, "accuracy"] == pytest.approx((cell["prediction"] == cell["gold"]).mean())
        assert cells.loc[key, "complaint_recall"] == pytest.approx((complaints["prediction"] == 0).mean())
    assert cells["complaint_recall"].nunique() > 1


def test_a_task_with_answer_metrics_is_planned_run_and_shown(outputs, folder):
    out = outputs["notices"]
    assert "answers generated: plain" in out["plan"] and "answers generated: english" in out["plan"]
    records = load_records(str(folder / "data_out" / "notices"))
    assert len(records) == 6 * 2 * 3 * 2
    assert records["error"].isna().all()
    assert records["n_generated_tokens"].between(1, 12).all()
    assert not records["raw_answer"].str.contains("\n").any()
    assert set(records["finish_reason"]) <= {"stop", "end", "length"}
    said = records[(records["template"] == "plain") & (records["k"] == 0)].set_index(["sample_id", "seed"])
    for (sample, seed), row in said.iterrows():
        assert row["exact"] == float(sample.endswith("0")), (sample, seed, row["answer"])


def test_metrics_of_answers_are_shown_with_intervals_over_clusters(outputs, folder):
    cells = shown(outputs["notices"]["show"])
    records = load_records(str(folder / "data_out" / "notices"))
    means = records.groupby(["template", "k", "seed"])[["exact", "same_date"]].mean()
    for name in ("exact", "same_date"):
        assert cells[name].to_dict() == pytest.approx(means[name].to_dict())
        assert (cells[f"{name}_low"] <= cells[name]).all() and (cells[name] <= cells[f"{name}_high"]).all()
    assert set(cells["n_clusters"]) == {3}
    assert cells.loc[("plain", 0, 1), "exact"] == 0.5


def test_answers_are_exported_one_file_per_cell(outputs, folder):
    files = [Path(folder, line) for line in outputs["notices"]["export"].splitlines()]
    assert len(files) == 2 * 3 * 2
    records = load_records(str(folder / "data_out" / "notices"))
    for (template, k, seed), cell in records.groupby(["template", "k", "seed"]):
        (path,) = (file for file in files if file.name.endswith(f"-{template}-k{k}-seed{seed}.json"))
        answers = dict(zip(cell["sample_id"], cell["answer"], strict=True))
        assert json.loads(path.read_text(encoding="utf-8")) == answers


def test_metrics_look_at_all_right_answers(prepared):
    task = prepared("notices.yaml").task
    sample = next(s for s in task.load(load_config("notices.yaml").task).pool if len(s.answers) == 2)
    assert sample.answers == ("3월 9일", "3월 9일까지")
    exact, same_date = task.answer_metrics["exact"], task.answer_metrics["same_date"]
    assert [exact(a, sample) for a in ("3월 9일", "3월9일까지", "3월 9일 밤")] == [1.0, 1.0, 0.0]
    assert [same_date(a, sample) for a in ("3월 9일 밤", "03월 9일", "9일", "")] == [1.0, 0.0, 0.0, 0.0]


def test_shortened_demonstrations_keep_their_answer_whole(prepared):
    def notices(*overrides):
        return [s.fields["notice"] for s in prepared("notices.yaml", *overrides).models[0].draw.pool.samples]

    whole = notices("demos.context_chars=null")
    short = notices("demos.context_chars=20")
    assert all(len(a) <= 20 < len(b) and a in b for a, b in zip(short, whole, strict=True))
    answers = ["3월 4일", "3월 9일", "6월 2일", "10월 3일"]
    for notice in short, notices("demos.context_chars=1"):
        assert all(answer in text for answer, text in zip(answers, notice, strict=True))


def test_no_question_gets_a_demonstration_of_its_own_office(prepared):
    ready = prepared("notices.yaml", "grid.k=[0,1]")
    renderer, pool = ready.renderer(ready.models[0], "plain", 1), ready.models[0].draw.pool.samples
    assert {s.source for s in pool} & {s.source for s in ready.data.samples} == {"도서관"}
    shown = {(s.source, pool[i].source) for s in ready.data.samples for seed in range(20)
             for i in renderer.demonstrations(s, seed, 1)}  # fmt: skip
    everyone = {(asked, other) for asked in ("도서관", "주민센터") for other in ("도서관", "체육관", "우체국")}
    assert shown == everyone - {("도서관", "도서관")}


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """The embedded model's files with a chat template."""
    model = tmp_path_factory.mktemp("chat")
    for path in KO_TINY.iterdir():
        (model / path.name).symlink_to(path)
    (model / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    return model


def test_chat_templates_become_messages_with_labels_after_the_assistants_header(prepared, chat_model):
    ready = prepared("mail.yaml", "grid.templates=[chat]", f"model.path={chat_model}")
    prompt = ready.renderer(ready.models[0], "chat", 1).prompts(ready.data.samples[:1], 1, [3])[0]
    assert prompt.text.startswith("<user>메일을 읽고 불만, 문의, 칭찬 중 한 낱말로만 답하세요.\n\n메일: ")
    assert sorted(re.findall("<assistant>(.+)\n", prompt.text)) == ["문의", "불만", "칭찬"]
    assert prompt.text.endswith("<user>메일: 포장이 다 젖어 있었어요\n<assistant>\n")
    tokenizer = ready.models[0].tokenizer
    whole = [tokenizer.whole(prompt.text + label) for label in ("불만", "문의", "칭찬")]
    assert [prompt.ids + list(ids) for ids in prompt.label_ids] == whole


def test_chat_demonstrations_may_stand_in_one_message(prepared, chat_model):
    ready = prepared("notices.yaml", "grid.templates=[chat]", f"model.path={chat_model}")
    prompt = ready.renderer(ready.models[0], "chat", 1).prompts(ready.data.samples[-1:], 1, [2])[0]
    assert prompt.text.count("<user>") == prompt.text.count("<assistant>") == 1
    assert len(re.findall(r"답: \d월 \d일\n\n공지: ", prompt.text)) == 2
    assert prompt.text.endswith("질문: 행사는 언제인가요?\n답:\n<assistant>\n")
    assert prompt.label_ids == ()


def test_the_printed_score_divides_by_the_labels_length():
    code = re.search(r"```python\n(def per_token.*?)```", GUIDE, re.DOTALL)
    assert code is not None
    names: dict = {"LabelScores": LabelScores}
    exec(code.group(1), names)
    assert names["per_token"](LabelScores((-3.0, -4.0), (1, 2), 0, 0.0)) == 1


@pytest.mark.parametrize("kinds", [{}, {"class_names": ("a", "b"), "answer_metrics": {"m": lambda a, s: 0.0}}])
def test_a_task_with_both_kinds_or_neither_is_refused(kinds):
    with pytest.raises(ConfigError, match="'odd' needs either class_names or answer_metrics, and not both"):
        Task("odd", "1", "", Path("t.yaml"), (), lambda options: pytest.fail("loaded"), **kinds)
