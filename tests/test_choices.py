"""Choices that samples bring: wordings, tables of questions, records, scores, places and PMI."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import harness
from harness.analysis.choices import choices_of_run
from harness.analysis.compared_runs import read_manifest
from harness.analysis.summary import summarise
from harness.cli import app
from harness.config.schema import TaskConfig
from harness.core.errors import ConfigError, DataError, TemplateError
from harness.core.prefixes import count_unique_tokens
from harness.core.task import Sample, Task
from harness.core.task_data import load_data
from harness.core.task_options import configured
from harness.planning.identity import wording_of
from harness.planning.lengths import measure
from harness.planning.preparation import prepare
from harness.prompts.choices import SCORES, ChoiceWording
from harness.prompts.templates import Template, read_templates
from harness.reporting.report.gathering import gather
from harness.reporting.report.positions import orders_of, position_sections
from harness.reporting.report.wording import scale_of
from harness.results.samples import CHOICES, read_samples
from harness.results.store import RunStore
from tasks.table import TASK
from tests.conftest import KO_TINY
from tests.scoring import naive_scores

QUESTIONS = [
    ("수도는 어디인가?", ["서울", "부산 광역시", "대구"], 0),
    ("가장 큰 수는?", ["1", "22", "333", "4444", "55555"], 4),
    ("바다는 무슨 색인가?", ["빨강", "파랑"], 1),
    ("봄 다음 계절은?", ["여름", "가을", "겨울", "봄"], 0),
    ("한글을 만든 왕은?", ["태조", "세종 대왕", "정조", "{marker} 고종 {choice}"], 1),
    ("닭의 새끼는?", ["병아리", "송아지", "강아지", "망아지"], 0),
    ("물은 몇 도에서 어는가?", ["0도", "100도", "영하 50도"], 0),
    ("제주도는 무엇인가?", ["섬", "<|endoftext|>", "산맥"], 0),
]
ROWS = [{"번호": f"q{n}", "질문": q, "보기": c, "답": c[g]} for n, (q, c, g) in enumerate(QUESTIONS)]
TEMPLATES = """
letters:
  query: "질문: {질문}\\n{choices}\\n정답:"
  choices: {markers: A, shown: "{marker}. {choice}", label: " {marker}"}
circled:
  query: "{질문}\\n{choices}\\n정답:"
  choices:
    {markers: "①", shown: "{marker} {choice}", between: " ", label: " {marker} {choice}", order: shuffled, seed: 3}
cloze:
  query: "질문: {질문}\\n정답:"
  choices: {label: " {choice}", score: per_character}
chat:
  render: chat
  query: "{질문}\\n{choices}"
  choices: {label: "{marker}"}
"""


def lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def loaded(place, **options):
    task, config = configured(TASK, TaskConfig(name="table", data_dir=str(place), options=options))
    return task, load_data(task, config), config.options


def by_id(data):
    return {s.id: s for s in [*data.samples, *data.pool]}


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """A folder with questions and templates."""
    folder = tmp_path_factory.mktemp("questions")
    lines(folder / "test.jsonl", ROWS[:-2])
    lines(folder / "train.jsonl", ROWS[-2:])
    (folder / "t.yaml").write_text(TEMPLATES, encoding="utf-8")
    return folder


def sections(folder, **more):
    base = {
        "out": str(folder),
        "model": {"path": str(KO_TINY), "dtype": "float32"},
        "task": {
            "name": "table",
            "data_dir": str(folder),
            "templates_file": str(folder / "t.yaml"),
            "options": {"id": "번호", "choices": "보기", "answer": "답"},
        },
        "grid": {"templates": ["letters", "circled", "cloze"], "k": [0, 2], "seeds": [1]},
        "demos": {"max_tokens": None},
        "scoring": {"calibration": ["domain"]},
        "cluster": {"address": "inline", "shard_size": 4},
    }
    return {**base, **more}


@pytest.fixture(scope="module")
def finished(questions):
    """The configuration and the directory of a finished run."""
    from harness.config.loading import config_from

    config = config_from(sections(questions, name="run"))
    return config, harness.run(config).run_dir


def test_a_query_shows_the_choices_and_labels_follow_the_order_of_the_sample():
    sample = Sample("q", {"질문": "?"}, 1, choices=("가", "나", "다"))
    given, own = ChoiceWording(), ChoiceWording(label=" {marker} {choice}", markers=tuple("①②③"), between=" / ")
    assert given.list_of(sample) == "A. 가\nB. 나\nC. 다"
    assert given.labels_of(sample) == (" A", " B", " C")
    assert own.labels_of(sample) == (" ① 가", " ② 나", " ③ 다")
    rotated = ChoiceWording(order=2)
    assert rotated.list_of(sample) == "A. 다\nB. 가\nC. 나"
    assert rotated.labels_of(sample) == (" B", " C", " A")
    shuffled = [ChoiceWording(order="shuffled", seed=seed) for seed in range(20)]
    orders = {tuple(wording.order_of(sample)) for wording in shuffled}
    assert len(orders) == 6
    for wording in shuffled:
        shown = dict(zip(wording.labels_of(sample), sample.choices, strict=True))
        assert [shown[f" {line[0]}"] for line in wording.list_of(sample).splitlines()] == [
            line[3:] for line in wording.list_of(sample).splitlines()
        ]
    others = {tuple(shuffled[0].order_of(Sample(str(n), {}, choices=sample.choices))) for n in range(50)}
    assert len(others) == 6


def test_scores_are_those_of_the_arithmetic():
    rng = np.random.default_rng(7)
    for _ in range(300):
        n = int(rng.integers(2, 6))
        texts = ["".join(rng.choice(list("가나다abc "), int(rng.integers(1, 9)))) + "끝" for _ in range(n)]
        logprobs, counts = -10 * rng.random(n), rng.integers(1, 6, n)
        sample = Sample("q", {}, choices=tuple(texts))
        lengths = {"sum": np.ones(n), "per_token": counts, "per_character": [len(t) for t in texts]}
        lengths["per_byte"] = [len(t.encode()) for t in texts]
        assert set(lengths) == set(SCORES)
        for score, size in lengths.items():
            wording = ChoiceWording(label="\n {choice}", score=score)
            assert wording.choose(sample, logprobs, counts.tolist()) == int(np.argmax(logprobs / np.asarray(size)))
    assert ChoiceWording().choose(Sample("q", {}, choices=("a", "b")), [-1.0, -1.0], [1, 1]) == 0


CHOICES_FAULTS = {
    "key": ("{label: ' {marker}', shwn: x}", r"choices has an unknown key 'shwn'; did you mean 'shown'"),
    "no mapping": ("shuffled", r"choices is 'shuffled', expected keys"),
    "order": ("{order: random}", r"choices\.order is 'random', expected given, shuffled"),
    "rotation": ("{order: 0}", r"choices\.order is 0"),
    "yes": ("{order: yes}", r"choices\.order is True"),
    "seed": ("{seed: 1}", r"choices\.seed is for `order: shuffled`"),
    "seed kind": ("{order: shuffled, seed: x}", r"choices\.seed is 'x', expected a whole number"),
    "score": ("{score: per_char}", r"choices\.score is 'per_char'; did you mean 'per_character'"),
    "markers": ("{markers: Q}", r"choices\.markers is 'Q', expected a list of texts, or the first mark"),
    "twice": ("{markers: [a, a, b]}", r"choices\.markers is \['a', 'a', 'b'\], expected different texts"),
    "few": ("{markers: [a, b]}", r"choices\.markers has 2 marks, but samples have up to 3"),
    "label": ("{label: ' x'}", r"choices\.label is ' x', expected text with \{marker\}"),
    "kind": ("{label: 3}", r"choices\.label is 3, expected text"),
    "shown": ("{shown: '{marker}'}", r"choices\.shown is '\{marker\}', expected text with \{choice\}"),
}


@pytest.mark.parametrize(("spec", "message"), CHOICES_FAULTS.values(), ids=CHOICES_FAULTS)
def test_a_wrong_wording_of_choices_is_told(tmp_path, spec, message):
    path = tmp_path / "t.yaml"
    path.write_text(f'a:\n  query: "{{질문}}\\n{{choices}}"\n  choices: {spec}\n', encoding="utf-8")
    with pytest.raises(TemplateError, match=message):
        read_templates(path, ("1", "2", "3"), choices=True)


def test_templates_that_do_not_suit_the_task_are_refused(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text("a: {query: '{질문}', choices: {}}\n", encoding="utf-8")
    with pytest.raises(TemplateError, match="does not show which choice has which marker"):
        read_templates(path, ("1", "2"), choices=True)
    with pytest.raises(TemplateError, match="has choices, but the task's samples bring none"):
        read_templates(path, ("1", "2"))
    path.write_text("a: {query: '{질문}', labels: [' a', ' b']}\n", encoding="utf-8")
    with pytest.raises(TemplateError, match="each sample has its own choices"):
        read_templates(path, ("1", "2"), choices=True)


def test_wordings_of_other_templates_are_what_they_were():
    template = Template("a", "{x}", (" a", " b"), separators=("\n", "\n"))
    assert set(wording_of(template)) == {"name", "query", "labels", "prefix", "separators", "answer", "chat"}
    assert "choices" in wording_of(Template("a", "{x}", choices=ChoiceWording()))


def columns(rows, name):
    """The questions with a column per choice, and what a function says of (choices, gold)."""
    made = []
    for number, (question, choices, gold) in enumerate(rows):
        cells = {f"c{place}": choices[place] if place < len(choices) else "" for place in range(5)}
        made.append({"id": f"q{number}", "질문": question, **cells, "답": name(choices, gold)})
    return pd.DataFrame(made)


READINGS = {
    "text": lambda choices, gold: choices[gold],
    "letter": lambda choices, gold: f"({'ABCDE'[gold]})",
    "0": lambda choices, gold: str(gold),
    "1": lambda choices, gold: str(gold + 1),
}


@pytest.mark.parametrize("reading", READINGS)
def test_answers_are_texts_letters_or_numbers(tmp_path, reading):
    columns(QUESTIONS, READINGS[reading]).to_csv(tmp_path / "t.csv", index=False)
    names = [f"c{place}" for place in range(5)]
    task, data, _ = loaded(tmp_path, id="id", choices=names, answer="답", answer_is=reading)
    assert task.choices and task.class_names == ("1", "2", "3", "4", "5")
    for number, (question, choices, gold) in enumerate(QUESTIONS):
        sample = by_id(data)[f"q{number}"]
        assert (sample.fields, sample.choices, sample.gold) == ({"질문": question}, tuple(choices), gold)
    if reading in ("text", "letter"):
        assert loaded(tmp_path, id="id", choices=names, answer="답")[2].answer_is == reading


def test_numbers_that_may_be_counted_in_two_ways_are_refused(tmp_path):
    rows = [("1+1?", ["1", "2", "3"], 1), ("2+1?", ["2", "3", "4"], 1)]
    columns(rows, READINGS["1"]).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ConfigError, match=r"may hold texts of choices or numbers .*: set task\.options\.answer_is to"):
        loaded(tmp_path, choices=["c0", "c1", "c2"], answer="답")
    columns(QUESTIONS, READINGS["0"]).to_csv(tmp_path / "t.csv", index=False)
    assert loaded(tmp_path, choices=[f"c{n}" for n in range(5)], answer="답")[2].answer_is == "0"


def test_a_missing_choice_moves_no_letter(tmp_path):
    frame = pd.DataFrame([{"q": f"?{n}", "a": "가", "b": "", "c": "다", "답": "C"} for n in range(4)])
    frame.to_csv(tmp_path / "t.csv", index=False)
    _, data, _ = loaded(tmp_path, choices=["a", "b", "c"], answer="답")
    assert {(s.choices, s.gold) for s in by_id(data).values()} == {(("가", "다"), 1)}


TABLE_FAULTS = {
    "not among": (
        {},
        [*ROWS, {**ROWS[0], "번호": "x", "답": "평양"}],
        r"line 9 \(id 'x'\): the answer '평양' is not among",
    ),
    "one choice": (
        {},
        [*ROWS, {**ROWS[0], "번호": "x", "보기": ["서울"]}],
        r"line 9 \(id 'x'\): 1 choices, expected at",
    ),
    "many": ({}, [{**ROWS[0], "보기": [str(n) for n in range(27)]}], r"line 1: 27 choices, expected 2 to 26"),
    "no answer": ({"answer": ""}, ROWS, r"choices needs task\.options\.answer"),
    "label too": ({"label": "답"}, ROWS, r"choices needs task\.options\.answer, .* and neither label nor classes"),
    "column": ({"choices": ["보기", "보기 2"]}, ROWS, r"task\.options\.choices is '보기 2', but the table has no such"),
    "kind": ({"answer_is": "word"}, ROWS, r"task\.options\.answer_is is 'word': input should be"),
    "most": ({"most_choices": 3}, ROWS, r"its choices are .*, expected 2 to 3 texts"),
}


@pytest.mark.parametrize(("options", "rows", "message"), TABLE_FAULTS.values(), ids=TABLE_FAULTS)
def test_wrong_choices_of_a_table_are_told(tmp_path, options, rows, message):
    lines(tmp_path / "t.jsonl", rows)
    with pytest.raises((ConfigError, DataError), match=message):
        loaded(tmp_path, **{"id": "번호", "choices": "보기", "answer": "답", **options})


def test_words_for_codes(tmp_path):
    lines(tmp_path / "t.jsonl", [{"q": "원인", "c": ["가", "나"], "a": 0}, {"q": "결과", "c": ["가", "나"], "a": 1}])
    words = {"q": {"원인": "왜냐하면", "결과": "그래서"}}
    _, data, _ = loaded(tmp_path, choices="c", answer="a", replace=words)
    assert {s.fields["q"] for s in by_id(data).values()} == {"왜냐하면", "그래서"}
    with pytest.raises(DataError, match=r"'q' is '결과', for which|'q' is '결과'; known: 원인, for which"):
        loaded(tmp_path, choices="c", answer="a", replace={"q": {"원인": "왜냐하면"}})


@pytest.mark.parametrize(
    ("choices", "gold", "message"),
    [
        ((), 0, r"its choices are \(\), expected 2 to 3 texts"),
        (("a",), 0, "expected 2 to 3 texts"),
        (("a", "b", "c", "d"), 0, "expected 2 to 3 texts"),
        (("a", " "), 0, "expected texts that are not empty"),
        (("a", 1), 0, "expected texts that are not empty"),
        (("a", "\ud800"), 0, "expected text that UTF-8 can hold"),
        (("a", "b"), 2, "its gold is 2, expected 0 to 1, the place among its choices"),
    ],
)
def test_a_task_in_python_brings_right_choices(choices, gold, message):
    from harness.core.task import TaskData

    sample = Sample("s", {"x": "?"}, gold, choices=choices)
    task = Task("t", "1", "", None, (), lambda config: TaskData([sample], [], "x"), ("1", "2", "3"), choices=True)
    with pytest.raises(DataError, match=message):
        load_data(task, TaskConfig(name="t"))
    with pytest.raises(ConfigError, match="expected a name for each place of a choice"):
        Task("t", "1", "", None, (), task.load, ("1",), choices=True)


def test_records_hold_each_samples_own_labels_in_their_order(finished, ko_tiny):
    config, run_dir = finished
    prepared = prepare(config)
    records = harness.load_records(run_dir)
    assert len(records) == 6 * 6
    for name in config.grid.templates:
        renderer = prepared.renderer(prepared.models[0], name, 1)
        for prompt in renderer.prompts(prepared.data.samples, 1, [0, 2]):
            row = records.query("template == @name and k == @prompt.k and sample_id == @prompt.sample.id").iloc[0]
            assert len(row["label_logprobs"]) == len(prompt.sample.choices)
            assert row["label_token_counts"].tolist() == [len(ids) for ids in prompt.label_ids]
            expected = naive_scores(ko_tiny, [prompt.ids], [prompt.label_ids])[0][0]
            assert np.abs(row["label_logprobs"] - expected).max() < 1e-4
            assert row["prediction"] == prompt.choices.choose(prompt.sample, expected, row["label_token_counts"])
            whole = prepared.models[0].tokenizer.whole_batch([prompt.text + label for label in prompt.labels])
            if "<|endoftext|>" not in "".join(prompt.sample.choices) and prompt.k == 0:
                assert [[*prompt.ids, *ids] for ids in prompt.label_ids] == whole


def test_figures_of_cells_are_those_of_the_records(finished):
    _, run_dir = finished
    records, cells = harness.load_records(run_dir), summarise(run_dir)
    choices = {row["번호"]: row["보기"] for row in ROWS}
    wordings = choices_of_run(run_dir, read_manifest(run_dir)).wordings
    assert wordings["circled"].order == "shuffled"
    for cell in cells.to_dict("records"):
        own = records[(records["template"] == cell["template"]) & (records["k"] == cell["k"])]
        wording, places = wordings[cell["template"]], []
        for score in SCORES:
            hits = [
                wording.choose(Sample(r.sample_id, {}, choices=tuple(choices[r.sample_id])), *scores, score) == r.gold
                for r in own.itertuples()
                for scores in [(r.label_logprobs, r.label_token_counts)]
            ]
            assert cell[f"accuracy_{score}"] == pytest.approx(np.mean(hits))
        assert cell["accuracy"] == cell[f"accuracy_{wording.score}"]
        for r in own.itertuples():
            order = wording.order_of(Sample(r.sample_id, {}, choices=tuple(choices[r.sample_id])))
            places.append((order.index(r.prediction), order.index(r.gold)))
        answered, right = (np.bincount(column, minlength=5) / len(places) for column in zip(*places, strict=True))
        assert [cell[f"answers_at_{place}"] for place in range(1, 6)] == pytest.approx(answered.tolist())
        assert [cell[f"right_at_{place}"] for place in range(1, 6)] == pytest.approx(right.tolist())
        for place in range(5):
            hits = [given == gold for given, gold in places if gold == place]
            assert cell[f"found_at_{place + 1}"] == pytest.approx(np.mean(hits) if hits else np.nan, nan_ok=True)
        assert cell["position_bias"] == pytest.approx(np.abs(answered - right).sum() / 2)


def test_pmi_subtracts_what_the_prompt_without_the_question_says(finished, ko_tiny):
    config, run_dir = finished
    prepared, cells, records = prepare(config), summarise(run_dir), harness.load_records(run_dir)
    renderer = prepared.renderer(prepared.models[0], "cloze", 1)
    hits = []
    for sample in prepared.data.samples:
        empty = Sample("x", dict.fromkeys(sample.fields, ""), choices=sample.choices)
        prompt = renderer.prompts([empty], 1, [0])[0]
        assert prompt.text == "질문: \n정답:"
        domain = naive_scores(ko_tiny, [prompt.ids], [prompt.label_ids])[0][0]
        row = records.query("template == 'cloze' and k == 0 and sample_id == @sample.id").iloc[0]
        hits.append(int(np.argmax(row["label_logprobs"] - domain)) == sample.gold)
    cell = cells[(cells["template"] == "cloze") & (cells["k"] == 0)].iloc[0]
    assert cell["accuracy_pmi"] == pytest.approx(np.mean(hits))


def test_contextual_calibration_of_choices_is_refused(questions):
    from harness.config.loading import config_from

    with pytest.raises(ConfigError, match=r"other choices for each sample; expected \[domain\]"):
        prepare(config_from(sections(questions, scoring={"calibration": ["contextual"]})))


def test_a_finished_run_is_complete_and_keeps_its_choices(finished):
    config, run_dir = finished
    before = harness.load_records(run_dir)
    harness.run(config)
    pd.testing.assert_frame_equal(harness.load_records(run_dir), before)
    table = read_samples(RunStore(run_dir)).to_pandas()
    assert table[CHOICES].map(list).tolist() == [row["보기"] for row in ROWS[:-2]]


def test_verbs_know_choices(finished, tmp_path):
    _, run_dir = finished

    def told(*words):
        done = CliRunner().invoke(app, list(words))
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    shown = told("show", run_dir, "--format", "md").stdout
    assert all(f"accuracy_{score}" in shown for score in (*SCORES, "pmi"))
    assert told("compare", run_dir).exit_code == 0
    report = tmp_path / "report.html"
    assert told("report", run_dir, "--out", str(report)).exit_code == 0
    assert "부산 광역시" in report.read_text(encoding="utf-8")


def table_of(section, caption):
    return next(table for table in [*section.tables, section.charts[0].table] if table.caption.startswith(caption))


def test_the_report_shows_where_answers_stand(finished):
    data = gather([finished[1]])
    (section,) = position_sections(data, scale_of("accuracy", [0.5]))
    cells = summarise(finished[1])
    labels = data.strategies.set_index(["template", "k"])["label"].to_dict()
    found = {row[0].text: row for row in table_of(section, "Places of the answers").rows}
    assert len(found) == 6
    for cell in cells.to_dict("records"):
        row = found[labels[cell["template"], cell["k"]]]
        figures = [cell["position_bias"]]
        figures += [cell[f"{name}_at_{place}"] for place in range(1, 6) for name in ("answers", "right", "found")]
        assert [c.value for c in row[2:]] == [None if np.isnan(figure) else figure for figure in figures]
        assert row[1].text == ("shuffled, seed 3" if cell["template"] == "circled" else "given")
    assert json.loads(json.dumps(section.charts[0].spec, allow_nan=False))["data"][0]["x"][0] == "place 1"
    assert "differ in `choices: {order: ...}` alone" in section.notes[-1]
    worst = cells.loc[cells["position_bias"].idxmax()]
    assert f"“{labels[worst['template'], worst['k']]}” strays most" in section.lead


@pytest.mark.parametrize("by", [["k"], ["template"]])
def test_places_of_strategies_that_are_averaged_over_templates_or_k(finished, by):
    data = gather([finished[1]], by)
    (section,) = position_sections(data, scale_of("accuracy", [0.5]))
    rows = table_of(section, "Places of the answers").rows
    assert [row[0].text for row in rows] == data.strategies["label"].tolist()
    orders = {row[1].text for row in rows}
    assert orders == ({"–"} if by == ["k"] else {"given", "shuffled, seed 3"})


def test_the_report_has_the_spread_over_orders_of_one_wording(finished):
    data = gather([finished[1]])
    templates = data.runs[0].manifest["identity"]["templates"]
    rotated = {**templates["letters"]["choices"], "order": 2}
    templates |= {"circled": {**templates["letters"], "name": "circled", "choices": rotated}}
    found = orders_of(data)
    means = data.strategies.set_index("label")["mean"]
    labels = data.strategies.set_index(["template", "k"])["label"].to_dict()
    pairs = {frozenset(labels[template, k] for template in ("letters", "circled")) for k in (0, 2)}
    assert {frozenset(one.labels) for one in found} == pairs
    for one in found:
        assert one.means == sorted((means[label] for label in one.labels), reverse=True)
    (section,) = position_sections(data, scale_of("accuracy", [0.5]))
    rows = table_of(section, "What the order of the choices alone changes").rows
    assert [row[5].value for row in rows] == sorted((one.spread for one in found), reverse=True)
    assert "the order of the choices alone moves accuracy" in section.lead
    # A template that says something else, too, is another wording.
    templates |= {"circled": {**templates["circled"], "query": "?"}}
    assert orders_of(data) == []


def test_prompts_are_printed_with_their_labels(questions):
    from harness.config.loading import config_from
    from harness.planning.report import prompt_lines

    config = config_from(sections(questions, grid={"templates": ["circled", "cloze"], "k": [0], "seeds": [1]}))
    found = [json.loads(line) for line in prompt_lines(config, None)]
    for line in found:
        row = next(row for row in ROWS if row["번호"] == line["sample_id"])
        assert [label.endswith(text) for label, text in zip(line["labels"], row["보기"], strict=True)]
        for label, text in zip(line["labels"], row["보기"], strict=True):
            assert label == f" {text}" if line["template"] == "cloze" else label.strip() in line["text"]


def test_the_plan_counts_what_is_computed(questions):
    from harness.config.loading import config_from

    prepared = prepare(config_from(sections(questions, scoring={})))
    for budget in measure(prepared, 100):
        renderer = prepared.renderer(prepared.models[0], budget.template, 1)
        prompts = renderer.prompts(prepared.data.samples, 1, [0, 2])
        sequences = [[*prompt.ids, *ids[:-1]] for prompt in prompts for ids in prompt.label_ids]
        assert budget.exact
        assert abs(budget.tokens_unique - count_unique_tokens(sequences)) <= 4
        assert budget.longest_prompt >= max(map(len, sequences))


def test_a_part_with_too_few_labels_is_left_out(finished, caplog):
    import pyarrow as pa

    from harness.results.records import _misfit
    from harness.results.schema import SCHEMA

    _, run_dir = finished
    manifest = read_manifest(run_dir)
    part = pa.Table.from_pandas(harness.load_records(run_dir)[SCHEMA.names], schema=SCHEMA, preserve_index=False)
    assert _misfit(part, manifest) == ""
    short = part.set_column(8, "label_logprobs", pa.array([[0.0]] * len(part), SCHEMA.field("label_logprobs").type))
    assert "label_logprobs" in _misfit(short, manifest)
    assert "label_logprobs" in _misfit(part, {**manifest, "choices": False})


def test_a_run_that_grows_has_pmi_of_all_its_samples(questions):
    from harness.config.loading import config_from

    grid = {"templates": ["cloze"], "k": [0], "seeds": [1]}
    for limit, calibration in ((2, []), (6, ["domain"])):
        task = {**sections(questions)["task"], "limit": limit}
        more = {"name": "grows", "task": task, "grid": grid, "scoring": {"calibration": calibration}}
        run_dir = harness.run(config_from(sections(questions, **more))).run_dir
    cells = summarise(run_dir)
    assert cells["n_scored"].tolist() == [6]
    assert np.isfinite(cells["accuracy_pmi"]).all()


def test_the_audit_takes_samples_with_other_numbers_of_choices(questions):
    from harness.config.loading import config_from
    from harness.running.audit import audit

    grid = {"templates": ["letters", "cloze"], "k": [0], "seeds": [1]}
    report = audit(config_from(sections(questions, name="audited", grid=grid, scoring={})), 6)
    assert report.is_well
    assert [found.run.prompts for found in report.templates] == [6, 6]


def test_labels_may_be_written_instead(questions):
    from harness.config.loading import config_from

    grid = {"templates": ["letters"], "k": [0, 2], "seeds": [1]}
    more = {"name": "written", "grid": grid, "scoring": {"method": "generate"}}
    run_dir = harness.run(config_from(sections(questions, **more))).run_dir
    records = harness.load_records(run_dir)
    choices = {row["번호"]: row["보기"] for row in ROWS}
    for row in records.itertuples():
        letters = "ABCDE"[: len(choices[row.sample_id])]
        expected = letters.index(row.answer.strip()) if row.answer.strip() and row.answer.strip() in letters else -1
        assert row.prediction == expected
    cells = summarise(run_dir)
    assert "accuracy_sum" not in cells
