"""Data files, tasks and templates with the troubles of other people: nothing vanishes without a word."""

import json
import os
import time
import unicodedata
from dataclasses import replace

import pytest

from harness.core.errors import ConfigError, ContextError, DataError, TemplateError
from harness.core.task import Sample, TaskData, find_task
from harness.core.task_data import check_task, load_data
from harness.planning.report import make_report
from harness.prompts.templates import read_templates
from tasks.korquad_files import Schema, read_contexts
from tasks.korquad_metrics import strip_tags
from tasks.korquad_text import UnreadableHtmlError, html_to_text
from tasks.nsmc import load, read_ratings

HEAD = "id\tdocument\tlabel\n"


@pytest.fixture
def ratings(tmp_path):
    def write(content, name="r.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    "text", ["NA", "null", "nan", "None", "N/A", "<NA>", "#N/A", "-", "a\u2028b", "a\x85b", "a\rb", "a\0b", '"', " "]
)
def test_a_review_stays_what_it_is(ratings, text):
    frame, dropped = read_ratings(ratings(f"{HEAD}1\t{text}\t1\n2\t나\t0\n"))
    assert (frame["document"].tolist(), dropped) == ([text, "나"], 0)


@pytest.mark.parametrize("id", ["0012", "1.0", "NA", "a b", "1e3"])
def test_an_id_stays_what_it_is(ratings, id):
    assert read_ratings(ratings(f"{HEAD}{id}\t가\t1\n"))[0]["id"].tolist() == [id]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_marks_of_other_systems_change_nothing(ratings, end, mark):
    text = mark + f"{HEAD}1\t가\t1\n2\t나 다\t0\n".replace("\n", end)
    assert read_ratings(ratings(text))[0]["document"].tolist() == ["가", "나 다"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"{HEAD}1\t가\t1\n2\t나", "line 3: 2 cells, expected 3.*is the file cut off"),
        (f"{HEAD}1\t가\t1\n2\t나\t", "line 3: no label.*is the file cut off"),
        (f"{HEAD}1\t가\t\n2\t나\t1\n", "line 2: no label, expected 0 or 1"),
        (f"{HEAD}\t가\t1\n", "line 2: no id"),
        (f'{HEAD}1\t"가\n나"\t1\n', "line 2: 2 cells, expected 3.*quoted review go over several lines"),
        (f"{HEAD}1\t가\t나\t1\n", "line 2: 4 cells, expected 3.*a tab inside the review"),
        (f"{HEAD}1\t가\t 1\n", "line 2: label ' 1', expected 0 or 1"),
        (f"{HEAD}1\t가\t1\n\n1\t나\t0\n", r"line 4: the id 1 comes twice \(first in line 2\)"),
        (HEAD.encode("utf-16"), "it is UTF-16, save it as UTF-8"),
        (b"\x1f\x8b\x08\0\0", "it is a gzip archive, unpack it"),
        (HEAD.encode() + "1\t가나\t1\n".encode("cp949"), "in line 2; it may be CP949, convert it"),
        (b"\0" * 5000, "has the columns .*expected"),
    ],
)
def test_a_broken_file_is_refused_with_its_line_and_its_cause(ratings, content, words):
    with pytest.raises(DataError, match=words) as caught:
        read_ratings(ratings(content))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_decomposed_hangul_is_composed_with_a_note(write_nsmc, make_config):
    rows = [(1, "좋은 영화", 1), (2, "café 나쁘다", 0)]
    folder = write_nsmc(rows, [(i, unicodedata.normalize("NFD", text), label) for i, text, label in rows])
    data = load(make_config(task={"data_dir": str(folder), "clean_text": False}).task)
    assert [s.fields["document"] for s in data.samples] == [text for _, text, _ in rows]
    assert "ratings_test.txt: the decomposed Hangul of 2 reviews is composed (NFC)" in data.notes


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_what_is_no_data_file_is_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "ratings_test.txt"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    with pytest.raises(DataError, match=r"ratings_test\.txt"):
        read_ratings(path)


GOOD = {
    "context": "서울은 수도이다.",
    "qas": [{"id": "q", "question": "수도는?", "answers": [{"text": "서울", "answer_start": 0}]}],
}


FLAT = {"id": "1", "question": "?", "context": "가", "answers": {"text": ["가"]}}


def korquad(title="가", **changes):
    return json.dumps({"data": [{"title": title, "paragraphs": [GOOD | changes]}]})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"data": ' + "[" * 5000 + "]" * 5000 + "}", "nested more than 64 levels deep"),
        ('{"data": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}", "nested more than 64 levels deep"),
        (korquad(context="서울은 \ud800 수도이다."), "ud800, half of a character"),
        (korquad(title="\udc00"), "udc00, half of a character"),
        (
            json.dumps({"data": [FLAT]}),
            "a flat row",
        ),
        (korquad(qas=5), "'qas' is 5, expected a list"),
        (korquad(context=["가"]), r"'context' is \['가'\], expected text"),
        ('{"data": [5]}', "article 1 is 5, expected an object"),
        ('{"data": [{"title": ' + "1" * 5000 + "}]}", "a number of more than 640 digits"),
        ('{"data": [{"a":-' + "9" * 641 + "}]}", "a number of more than 640 digits"),
        (korquad(context="\\" * 200_000 + "\ud800"), "ud800, half of a character"),
    ],
)
def test_a_broken_korquad_file_is_refused_in_one_line(ratings, content, words):
    with pytest.raises(DataError, match=words) as caught:
        list(read_contexts([ratings(content, "KorQuAD.json")], Schema.V1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["\U0001f600", "a\\\\ud800b", "가" * 9 + "\U0001f600"])
def test_whole_characters_in_escapes_are_no_halves(ratings, text, monkeypatch):
    monkeypatch.setattr("tasks.korquad_files._BLOCK", 7)  # pairs and backslashes cut between blocks
    content = korquad(context="서울은 " + text)
    assert next(read_contexts([ratings(content, "KorQuAD.json")], Schema.V1)).text == "서울은 " + text


def test_numbers_and_backslashes_inside_texts_are_texts(ratings, monkeypatch):
    monkeypatch.setattr("tasks.korquad_files._BLOCK", 1000)  # runs of backslashes cut between blocks
    for text in ("1" * 5000, '"' + "1, " + "2" * 5000, "\\" * 5001 + "ud800", "\\" * 20_000):
        content = korquad(context="서울은 " + text)
        assert next(read_contexts([ratings(content, "KorQuAD.json")], Schema.V1)).text == "서울은 " + text


UNCLOSED = {
    "<!--": "comments",
    "<!--x--!": "comments",
    "<a ": "tags",
    '<a b="': "tags",
    "<a\n": "tags",
    "<a/": "tags",
    "<![CDATA[ >": "sections",
    "<![CDATA[ ]>": "sections",
    "<![if >": "conditions",
    "</a ": "tags",
    "<?": "tags",
}


@pytest.mark.parametrize("piece", UNCLOSED)
def test_pages_whose_parsing_takes_the_square_of_their_length_are_refused_at_once(piece):
    page = piece * 200_000
    with pytest.raises(UnreadableHtmlError, match=rf"200,000 {UNCLOSED[piece]} in it never end"):
        html_to_text(page)
    assert strip_tags(page) == page


@pytest.mark.parametrize("piece", ["<", "<1", "&", "&#", "<script>", "<div>", "<table><tr><td>", "<rt>"])
def test_other_pages_out_of_joint_are_read_in_a_moment(piece):
    """Time that grows with the square of the length would be minutes."""
    started = time.process_time()
    html_to_text(piece * 100_000)
    assert time.process_time() - started < 20


def test_a_few_tags_that_never_end_are_read():
    assert html_to_text("<p>서울은</p>" + "<b " * 100) == "서울은\n" + "<b " * 99 + "<b"


def task_of(**changes):
    """A task of two classes whose loader gives changed data."""
    samples = [Sample(str(i), {"document": f"글 {i}"}, i % 2) for i in range(4)]
    given = {"samples": samples, "pool": samples, "length_field": "document"} | changes
    return replace(find_task("nsmc"), load=lambda options: TaskData(**given))


def raising(options):
    raise KeyError("column")


def unanswered(options):
    return TaskData([Sample("1", {"a": "가"})], [], "a")


def leaving(options):
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (task_of(samples=[Sample("1", {"document": "가"}, 2)]), "gold is 2, expected 0 to 1.*counted from 1"),
        (task_of(samples=[Sample("1", {"document": "가"})]), "gold is -1, expected 0 to 1"),
        (task_of(pool=[Sample("1", {"document": "가"}, True)]), "demonstration '1'.*gold is True"),
        (task_of(samples=[Sample("1", {"document": "가"}, 0)] * 2), "the sample id '1' comes twice"),
        (task_of(samples=[Sample(1, {"document": "가"}, 0)]), "its id is 1, expected text"),
        (task_of(samples=[Sample("1", {"document": 5}, 0)]), "its document is 5, expected text"),
        (task_of(samples=[Sample("1", {"document": None}, 0)]), "its document is None, expected text"),
        (task_of(samples=[Sample("1", {"document": "\ud800"}, 0)]), "its document holds a lone surrogate"),
        (task_of(samples=[Sample("1", {"document": "가"}, 0), Sample("2", {"text": "가"}, 0)]), "its fields are"),
        (task_of(samples=[{"id": 1}]), "it is a dict, expected a harness.core.task.Sample"),
        (task_of(samples=[Sample("1", {"document": "가" * 4_000_001}, 0)]), "has 4,000,001 characters, expected"),
        (task_of(pool=[Sample("1", {"document": "a" * 5_000_000}, 0)]), "demonstration '1'.*has 5,000,000 characters"),
        (task_of(raw_pool_texts=["가", "나", "다", "a" * 4_000_001]), "not all texts of at most 4,000,000 characters"),
        (task_of(length_field="text"), "length_field is 'text', but its samples have: document"),
        (task_of(samples=[]), "has no samples"),
        (task_of(samples=iter([])), "its samples are a list_iterator, expected a list"),
        (task_of(raw_pool_texts=["가"]), "1 raw_pool_texts for 4 demonstrations"),
        (replace(find_task("nsmc"), load=lambda options: None), "its loader gave a NoneType"),
        (replace(find_task("nsmc"), load=raising), r"raised KeyError: 'column' \(test_data_hostile\.py:\d+\)"),
        (replace(find_task("nsmc"), load=leaving), "raised SystemExit"),
        (replace(find_task("korquad1"), load=unanswered), "its answers are"),
    ],
)  # fmt: skip
def test_mistakes_of_any_task_are_told_with_the_sample(make_config, task, words):
    with pytest.raises(DataError, match=words) as caught:
        load_data(task, make_config().task)
    assert "\n" not in str(caught.value)


def raises(error):
    def method(*given):
        raise error

    return method


@pytest.fixture
def interruptible():
    """Interrupts are taken as they are during `harness run`."""
    import signal

    from harness.running.stopping import stoppable

    before = signal.getsignal(signal.SIGINT)
    with stoppable():
        yield
    assert signal.getsignal(signal.SIGINT) is before


LEAVING = [SystemExit(0), SystemExit("bye"), KeyboardInterrupt(), ValueError("no luck")]


@pytest.mark.parametrize("error", LEAVING, ids=repr)
def test_a_task_that_leaves_while_it_judges_fails_that_sample(error, interruptible):
    from types import SimpleNamespace

    import numpy as np

    from harness.config.schema import GenerationConfig
    from harness.engine.protocol import Scores
    from harness.prompts.prompt import Prompt
    from harness.running.judging import Judge

    def score(scores):
        if scores.argmax_token == 1:
            raise error
        return 0

    task = replace(find_task("nsmc"), score=score)
    judge = Judge(task, SimpleNamespace(decode_token=str), GenerationConfig())
    unit = SimpleNamespace(model="m", task="t", template="x", seed=1)
    prompts = [Prompt(Sample(str(i), {}, 0), 0, (), [1], ((1,), (2,)), 0, labels=("a", "b")) for i in range(3)]
    scores = Scores(np.zeros((3, 2)), np.array([0, 1, 2]), np.zeros(3), 3)
    records = judge.by_labels(unit, prompts, scores)
    assert [r.error is None for r in records] == [True, False, True]
    assert str(error) in records[1].error and "\n" not in records[1].error
    if not isinstance(error, Exception):
        assert f"task 'nsmc' raised {type(error).__name__}" in records[1].error
        assert "test_data_hostile.py:" in records[1].error


def test_the_error_of_a_record_holds_no_key_and_steers_nothing(monkeypatch):
    from types import SimpleNamespace

    from harness.running.judging import failed

    monkeypatch.setenv("HF_TOKEN", "hf_HUNTER2hunter2")
    error = ValueError("https://u:HUNTER2@h said\n'hf_HUNTER2hunter2' \x1b[31m \ud800")
    unit = SimpleNamespace(model="m", task="t", template="x", seed=1)
    record = failed(unit, Sample("a", {}, 0), 0, error)
    assert record.error == "https://***@h said '***' \\u001b[31m \\ud800"


def test_an_interrupt_of_the_user_inside_a_task_is_no_fault_of_the_task(interruptible):
    from harness.core.errors import Interrupted
    from harness.core.foreign import blamed_on

    with pytest.raises(Interrupted), blamed_on("task", "mend it", DataError):
        raise Interrupted(2)


@pytest.mark.parametrize("result", [*LEAVING, "many", None], ids=repr)
def test_a_metric_that_fails_is_blamed_on_its_task(tmp_path, result, interruptible):
    from harness.analysis.summary import summarise
    from tests.simulated_runs import classified_run

    def metric(gold, predicted):
        if isinstance(result, BaseException):
            raise result
        return result

    run_dir = classified_run(tmp_path / "run", ["가", "나"], {("plain", 0): 0.6}, seeds=(1,))
    with pytest.raises(ConfigError, match=r"its metric 'mine' raised .*; mend the task") as caught:
        summarise(str(run_dir), metrics={"mine": metric})
    assert "\n" not in str(caught.value)


def test_a_shortening_that_fails_is_blamed_on_its_task(make_config):
    from harness.planning.preparation import _shortened

    task = replace(find_task("korquad1"), shorten=raises(SystemExit(0)))
    pool = [Sample("1", {"context": "가"}, answers=("가",))]
    with pytest.raises(DataError, match="task 'korquad1': shortening a demonstration raised SystemExit"):
        _shortened(task, TaskData(pool, pool, "context"), 10)


def test_class_names_that_are_no_texts_are_refused():
    with pytest.raises(ConfigError, match="class_names are"):
        check_task(replace(find_task("nsmc"), class_names=(False, True)))
    with pytest.raises(ConfigError, match="class_names are"):
        check_task(replace(find_task("nsmc"), class_names=("a", "a")))


LABELS = "labels: [' 부정', ' 긍정']"
BOMB = "[" + ", ".join(["&a0 [x]", *(f"&a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(12))]) + "]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"5: {{query: '{{document}}', {LABELS}}}\n'5': {{query: 'b', {LABELS}}}", "comes twice|'5' twice"),
        (f"t:\n  query: '{{document}}'\n  query: 'b'\n  {LABELS}\n", "line 3.*the key 'query' comes twice"),
        ("t: {query: '{document}', labels: [no, yes]}", "YAML reads a bare yes, no"),
        ("t: {query: '{document}', labels: [on, 'b']}", "YAML reads a bare yes, no"),
        (f"t: {{query: '{{document}}', {LABELS}}}\n" * 2, "line 2, column 1: the key 't' comes twice"),
        (f'"a\\e[31m": {{query: "{{document}}", {LABELS}}}', "name that cannot be shown"),
        (f'"a\\nb": {{query: "{{document}}", {LABELS}}}', "name that cannot be shown"),
        (f'" ": {{query: "{{document}}", {LABELS}}}', "name that cannot be shown"),
        ("t: {query: '" + "{document} " * 1001 + f"', {LABELS}}}", "1,001 braces, expected at most"),
        ("t: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        (f"t: {{query: '{{document}}', labels: {BOMB}}}", "aliases make it more than 1,000,000 values"),
        ("t: &a {query: *a}", "a value holds itself"),
        ("t: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
)
def test_template_files_that_mislead_are_refused(ratings, text, words):
    with pytest.raises(TemplateError, match=words) as caught:
        read_templates(ratings(text, "t.yaml"), ["negative", "positive"])
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_review_that_never_fits_is_named_with_the_way_out(write_nsmc, make_config):
    train = [(i, f"글 {i}", i % 2) for i in range(6)]
    folder = write_nsmc(train, [(1, "좋다", 1), (5000, "아주 긴 영화 이야기 " * 900, 0), (3, "별로", 0)])
    config = make_config(task={"data_dir": str(folder)}, grid={"templates": ["lecture_1"], "k": [0, 2], "seeds": [1]})
    with pytest.raises(ContextError, match=r"sample '5000' has [\d,]+ tokens without any demonstration.*take it out"):
        make_report(config)


def test_prompts_without_a_token_are_named_before_the_run(write_nsmc, make_config, tmp_path):
    train = [(i, f"글 {i}", i % 2) for i in range(6)]
    folder = write_nsmc(train, [(1, "좋다", 1), (8000, "1/10", 0)])
    own = tmp_path / "t.yaml"
    own.write_text(f"bare: {{query: '{{document}}', {LABELS}}}")
    task = {"data_dir": str(folder), "templates_file": str(own)}
    config = make_config(task=task, grid={"templates": ["bare"], "k": [0], "seeds": [1]})
    with pytest.raises(TemplateError, match=r"K=0 gives prompts without a token for 1 samples \(8000\).*give the"):
        make_report(config)
