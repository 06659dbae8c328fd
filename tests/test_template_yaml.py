"""A template written as YAML is read back as the same template."""

import json
from dataclasses import replace

import pytest

from harness.planning.identity import wording_of
from harness.prompts.template_yaml import template_yaml
from harness.prompts.templates import read_templates
from tests.conftest import REPO

CLASSES = ("negative", "positive")
CHOICES = tuple("12345678")
SPECS = [
    "a: {query: '문장: {document}\n감정:', labels: [' 부정', ' 긍정']}",
    "a: {query: \"{document}\\n감정: \", labels: ['no', 'yes'], boundary: exact, separator: ['. ', '! '],"
    " prefix: '다음\n'}",
    "a: {query: '{document}', labels: [a, b], separator: \"\\n\\n\"}",
    "a: {query: '{document}', labels: [a, b], render: chat, demonstrations: message, system: 말, without_system: merge,"
    " answer_prefix: '답: ', thinking: 'on'}",
    "a: {query: '{{x}} {document} #: - \"', labels: [' 부정 ', '긍정'], render: chat}",
]


def read(path, text, class_names=CLASSES, choices=False):
    path.write_text(text, encoding="utf-8")
    return read_templates(path, class_names, choices)


def plain(template):
    """The wording as a manifest holds it."""
    return json.loads(json.dumps(wording_of(template)))


@pytest.mark.parametrize("spec", SPECS)
def test_every_kind_of_template_comes_back(tmp_path, spec):
    template = read(tmp_path / "a.yaml", spec)["a"]
    assert read(tmp_path / "b.yaml", template_yaml("a", plain(template)))["a"] == template


@pytest.mark.parametrize("path", sorted((REPO / "tasks" / "templates").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_templates_come_back(tmp_path, path):
    text = path.read_text(encoding="utf-8")
    choices = "labels:" not in text and "answer:" not in text
    names = next(names for n in range(9) if (names := names_that_fit(tmp_path, text, n, choices)) is not None)
    for name, template in read(tmp_path / "a.yaml", text, names, choices).items():
        back = read(tmp_path / "b.yaml", template_yaml(name, plain(template)), names, choices)[name]
        assert back == replace(template, description="")


def names_that_fit(tmp_path, text, n, choices):
    """Class names that a file's labels fit; None for another number of them."""
    from harness.core.errors import TemplateError

    try:
        read(tmp_path / "a.yaml", text, CHOICES[:n], choices)
    except TemplateError:
        return None
    return CHOICES[:n]
