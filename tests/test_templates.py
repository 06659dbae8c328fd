"""Templates are data: fields are filled once, nothing is evaluated, mistakes are named."""

import pytest

from harness.core.errors import ConfigError, TemplateError
from harness.core.task import Sample
from harness.prompts.templates import Template, choose_templates, fill, read_templates
from tasks.nsmc import TASK

CLASSES = ("negative", "positive")


@pytest.fixture
def shipped():
    return read_templates(TASK.templates, TASK.class_names)


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "templates.yaml"
        path.write_text(text, encoding="utf-8")
        return read_templates(path, CLASSES)

    return read


@pytest.mark.parametrize(
    "document",
    ["{document}", "{{document}}", "{0}", "{", "}", "{{", "}}", "{document.__class__}", "%s {x!r:>10} $y \\1"],
)
def test_braces_in_a_document_stay_as_they_are(document):
    assert fill("<{document}>", {"document": document}) == f"<{document}>"


def test_double_braces_are_literal_braces():
    assert fill("{{{document}}} {{x}} }}{{", {"document": "a"}) == "{a} {x} }{"


def test_a_field_may_occur_twice_beside_another():
    assert fill("{a}{b}{a}", {"a": "{b}", "b": "{a}"}) == "{b}{a}{b}"


@pytest.mark.parametrize(
    "query",
    [
        "{document.__class__}",
        "{document[0]}",
        "{document!r}",
        "{document:>10}",
        "{0}",
        "{}",
        "{ document }",
        "{document",
        "document}",
        "{{document}",
    ],
)
def test_only_plain_names_in_braces_are_fields(read, query):
    with pytest.raises(TemplateError, match=r"is not a field; write \{name\}"):
        read(f"t: {{query: '{query}', labels: [' a', ' b']}}")


def test_a_field_that_samples_lack_is_named(read):
    known = read("t: {query: '{document} {title}', labels: [' a', ' b']}")
    with pytest.raises(TemplateError, match="template 't' names the field 'title', but samples have: document"):
        choose_templates(["t"], known, {"document"})


def test_an_unknown_template_names_the_nearest(shipped):
    with pytest.raises(ConfigError, match="no template 'lectur_1'; did you mean 'lecture_1'"):
        choose_templates(["lectur_1"], shipped, {"document"})


def test_templates_come_in_the_order_asked_for(shipped):
    assert [t.name for t in choose_templates(["english", "lecture_1"], shipped, {"document"})] == [
        "english",
        "lecture_1",
    ]


def test_the_lectures_first_prompt_to_the_letter(shipped):
    template = shipped["lecture_1"]
    assert template.render_query(Sample("s", {"document": "재미있다"})) == "문장: 재미있다\n감정:"
    assert template.render_solved(Sample("s", {"document": "재미있다"}, 1)) == "문장: 재미있다\n감정: 긍정\n"
    assert template.render_solved(Sample("s", {"document": ""}, 0)) == "문장: \n감정: 부정\n"
    assert template.prefix == ""


def test_the_lectures_second_prompt_to_the_letter(shipped):
    template = shipped["lecture_2"]
    assert template.render_query(Sample("s", {"document": "별로"})) == "다음 문장은 긍정일까요 부정일까요?\n별로\n정답:"
    assert (
        template.render_solved(Sample("s", {"document": "별로"}, 0))
        == "다음 문장은 긍정일까요 부정일까요?\n별로\n정답: 부정\n"
    )


@pytest.mark.parametrize("number", [1, 2])
def test_the_published_variant_leaves_out_the_newline_after_positive_demonstrations_only(shipped, number):
    fixed, published = shipped[f"lecture_{number}"], shipped[f"lecture_{number}_no_newline"]
    shown = {"document": "가"}
    assert published.query == fixed.query
    assert published.render_solved(Sample("s", shown, 0)) == fixed.render_solved(Sample("s", shown, 0))
    assert published.render_solved(Sample("s", shown, 1)) == fixed.render_solved(Sample("s", shown, 1)).removesuffix(
        "\n"
    )


@pytest.mark.parametrize("name", ["english", "koalpaca", "good_bad", "document_first"])
def test_every_shipped_template_puts_the_space_into_the_label(shipped, name):
    template = shipped[name]
    assert template.query == template.query.rstrip()
    assert all(label.startswith(" ") for label in template.labels)
    assert template.field_names() == {"document"}


def test_separators_may_differ_by_class(read):
    template = read("t: {query: '{document}', labels: [' a', ' b'], separator: ['|', '||']}")["t"]
    shown = {"document": "x"}
    assert (template.render_solved(Sample("s", shown, 0)), template.render_solved(Sample("s", shown, 1))) == (
        "x a|",
        "x b||",
    )


def test_a_single_separator_serves_all_classes_and_a_newline_is_the_default(read):
    templates = read(
        "one: {query: '{document}', labels: [' a', ' b'], separator: ' / '}\n"
        "none: {query: '{document}', labels: [' a', ' b']}"
    )
    assert templates["one"].separators == (" / ", " / ")
    assert templates["none"].separators == ("\n", "\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no templates"),
        ("- a", "holds no templates"),
        ("t: [", "cannot be read"),
        ("t: text", "template 't' in '.*' is not a mapping"),
        ("t: {labels: [' a', ' b']}", "has no query"),
        ("t: {query: '', labels: [' a', ' b']}", "has no query"),
        ("t: {query: 3, labels: [' a', ' b']}", "has no query"),
        ("t: {query: '{document}'}", "has no list of label texts"),
        ("t: {query: '{document}', labels: ' a'}", "has no list of label texts"),
        ("t: {query: '{document}', labels: [1, 2]}", "has no list of label texts"),
        ("t: {query: '{document}', labels: [' a']}", "has 1 labels, expected 2"),
        ("t: {query: '{document}', labels: [' a', ' b', ' c']}", "has 3 labels, expected 2"),
        ("t: {query: '{document}', labels: [' a', '']}", "has an empty label"),
        ("t: {query: '{document}', labels: [' a', ' a']}", "gives two classes the same label text"),
        ("t: {query: '{document}', labels: [' a', ' b'], separator: [x]}", "separator must be text, or a list of 2"),
        ("t: {query: '{document}', labels: [' a', ' b'], separator: 3}", "separator must be text"),
        ("t: {query: '{document}', labels: [' a', ' b'], prefix: 3}", "prefix and description must be text"),
        ("t: {query: '{document}', lables: [' a', ' b']}", "unknown key 'lables'; did you mean 'labels'"),
    ],
)
def test_a_malformed_template_says_what_is_wrong(read, text, message):
    with pytest.raises(TemplateError, match=message) as caught:
        read(text)
    assert "\n" not in str(caught.value)


def test_a_missing_templates_file_is_named(tmp_path):
    with pytest.raises(TemplateError, match=r"no templates file '.*none\.yaml'"):
        read_templates(tmp_path / "none.yaml", CLASSES)


def test_a_templates_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "templates.yaml"
    path.write_bytes(b"t: \xff\xff")
    with pytest.raises(TemplateError, match="cannot be read"):
        read_templates(path, CLASSES)


@pytest.mark.parametrize("query", ["no field at all", "{{document}}"])
def test_a_query_without_a_field_is_refused(read, query):
    """Every sample would get the same prompt: a slip such as doubled braces, not a wish."""
    with pytest.raises(TemplateError):
        read(f"t: {{query: '{query}', labels: [' a', ' b']}}")


def test_the_prefix_is_literal_text(read):
    template = read("t: {prefix: 'Use {json}.', query: '{document}', labels: [' a', ' b']}")["t"]
    assert template == Template("t", "{document}", (" a", " b"), "Use {json}.", ("\n", "\n"))
