"""One class in two spellings is refused with counts, wherever classes are told by their text."""

import unicodedata

import pytest

from harness.config.schema import TaskConfig
from harness.core.errors import DataError, TemplateError
from harness.core.spelling import first_alike, spelt_alike, without_white_space_around
from harness.core.task_data import load_data
from harness.core.task_options import configured
from harness.prompts.templates import read_templates
from tasks.table import TASK


def loaded(place, **options):
    task, config = configured(TASK, TaskConfig(name="table", data_dir=str(place), options=options))
    return task, load_data(task, config)


def table(tmp_path, labels):
    rows = "".join(f"글 {n},{label}\n" for n, label in enumerate(labels))
    (tmp_path / "test.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "labels",
    [
        ["긍정", "부정", "부정 "],
        ["Good", "bad", "good"],
        ["0", "1", "1.0"],
        ["true", "false", "True"],
        ["so so", "bad", "so  so"],
    ],
)
def test_two_spellings_of_a_class_are_refused_with_counts(tmp_path, labels):
    place = table(tmp_path, labels * 4)
    with pytest.raises(DataError, match=r"two spellings of what may be one class: .* in 4 and .* in 4 rows"):
        loaded(place, label="label")
    # Whoever lists them means them.
    task, _ = loaded(place, label="label", classes=labels)
    assert task.class_names == tuple(labels)


def test_decomposed_labels_and_answers_are_those_that_are_composed(tmp_path):
    apart = unicodedata.normalize("NFD", "긍정")
    task, data = loaded(table(tmp_path, ["긍정", "부정", apart] * 4), label="label", fields=["text"])
    assert task.class_names == ("긍정", "부정")
    assert sum("composed" in note for note in data.notes) == 1
    _, data = loaded(tmp_path, label="label", classes=[apart, "부정"], fields=["text"])
    assert {s.gold for s in data.samples} == {0, 1}
    _, data = loaded(tmp_path, answer="label", fields=["text"])
    assert {answer for s in [*data.samples, *data.pool] for answer in s.answers} == {"긍정", "부정"}


def test_labels_of_a_template_that_differ_in_white_space_alone_are_refused(tmp_path):
    file = tmp_path / "t.yaml"
    file.write_text('t: {query: "{text}", labels: [" 부정", " 부정 "]}', encoding="utf-8")
    with pytest.raises(TemplateError, match="differ in white space or normal form alone"):
        read_templates(file, ["부정", "부정 "])
    file.write_text('t: {query: "{q} {choices}", choices: {markers: [A, "A ", B]}}', encoding="utf-8")
    with pytest.raises(TemplateError, match="expected different texts"):
        read_templates(file, ["1", "2", "3"], choices=True)


def test_forms():
    assert spelt_alike("01") == spelt_alike("1.0 ") != spelt_alike("1.1")
    assert spelt_alike("１") != spelt_alike("nan") == spelt_alike("NaN")
    assert first_alike(["가", "나"], without_white_space_around) is None
