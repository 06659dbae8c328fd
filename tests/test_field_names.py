"""Columns and fields that templates could not tell apart are refused; what a query names stands in the samples."""

import json

import pytest

from harness.config.loading import config_from
from harness.core.errors import DataError, TemplateError
from harness.planning.preparation import prepare
from tests.conftest import KO_TINY

LABELS = "labels: [' 가', ' 나']"


def prepared(tmp_path, row, template, **options):
    rows = ({name: value(n) if callable(value) else value for name, value in row.items()} for n in range(20))
    lines = "\n".join(json.dumps(one, ensure_ascii=False) for one in rows)
    (tmp_path / "t.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "t.yaml").write_text(f"one: {{{template}}}", encoding="utf-8")
    task = {
        "name": "table", "data_dir": str(tmp_path / "t.jsonl"), "templates_file": str(tmp_path / "t.yaml"),
        "options": options,
    }  # fmt: skip
    given = {"model": {"path": str(KO_TINY)}, "task": task, "grid": {"templates": ["one"], "k": [0]}}
    return prepare(config_from({**given, "demos": {"max_tokens": None}}))


TEXT, CLASS = "글 {}".format, (2).__rmod__


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"my text": TEXT, "my_text": "다른 글", "y": CLASS}, "my_text"),
        ({"meta": lambda n: {"text": TEXT(n)}, "meta_text": "다른 글", "y": CLASS}, "meta_text"),
        ({"글(1)": TEXT, "글-1-": "다른 글", "y": CLASS}, "글_1_"),
    ],
)
def test_two_columns_of_one_name_in_templates_are_refused(tmp_path, row, name):
    template = f"query: '{{{name}}} 답:', {LABELS}"
    with pytest.raises(DataError, match=rf"are both \{{{name}\}} in templates; rename one of them, or name those"):
        prepared(tmp_path, row, template, label="y")
    shown = next(iter(row)) if "meta" not in row else "meta.text"
    found = prepared(tmp_path, row, template, label="y", fields=[shown])
    assert all(sample.fields[name].startswith("글 ") for sample in found.data.samples)


def test_a_field_that_is_called_choices_is_refused_beside_choices(tmp_path):
    row = {"q": TEXT, "choices": "설명", "A": "가", "B": "나", "answer": "A"}
    template = "query: '{q} {choices} 답:', choices: {markers: A}"
    with pytest.raises(DataError, match="a field 'choices', which in templates stands for the choices themselves"):
        prepared(tmp_path, row, template, choices=["A", "B"], answer="answer")
    prepared(tmp_path, row, template, choices=["A", "B"], answer="answer", fields=["q"])


def test_a_query_that_names_the_answer_names_a_field(tmp_path):
    row = {"q": TEXT, "answer": "서울"}
    with pytest.raises(TemplateError, match="names the field 'answer', but samples have: q"):
        prepared(tmp_path, row, "query: '{q} {answer} 답:', answer: ' {answer}'", answer="answer")
    found = prepared(tmp_path, {**row, "y": CLASS}, f"query: '{{q}} {{answer}} 답:', {LABELS}", label="y")
    assert found.templates["one"].field_names() == {"q", "answer"}
