"""Prompts without a token and labels that win by construction are refused; unequal labels are said."""

import json
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from harness.analysis.summary import table_notes
from harness.cli import app
from harness.core.errors import TemplateError
from harness.planning.lengths import measure
from harness.planning.preparation import prepare
from harness.planning.report import make_report
from harness.reporting.plans import write_plan
from harness.running.driver import run


@pytest.fixture
def configured(make_config, write_nsmc, tmp_path):
    """A grid over one template, on few reviews of which some are empty once they are cleaned."""

    def make(documents=("재미있다", "별로"), k=(0,), scoring=None, **template):
        folder = write_nsmc(
            [(f"t{i}", f"영화 {i}번 좋아요", i % 2) for i in range(20)],
            [(f"s{i}", document, i % 2) for i, document in enumerate(documents)],
        )
        wording = {"query": "{document}", "labels": [" 부정", " 긍정"], **template}
        file = tmp_path / "templates.yaml"
        file.write_text(yaml.safe_dump({"mine": wording}, allow_unicode=True), encoding="utf-8")
        return make_config(
            name="labels",
            out=str(tmp_path),
            task={"data_dir": str(folder), "templates_file": str(file)},
            grid={"templates": ["mine"], "k": list(k), "seeds": [1]},
            scoring=scoring or {},
        )

    return make


def refusal_of(config):
    with pytest.raises(TemplateError) as caught:
        measure(prepare(config), 8)
    with pytest.raises(TemplateError, match="mine"):
        make_report(config)
    return str(caught.value)


@pytest.mark.parametrize(
    ("documents", "named"),
    [
        (("재미", "1/10", "10!!"), "2 samples (s1, s2)"),
        (("가", "?"), "1 samples (s1)"),
        (("...",) * 7, "7 samples (s0, s1, s2, s3, s4 and 2 more)"),
    ],
)
def test_prompts_without_a_token_are_refused(configured, documents, named):
    message = refusal_of(configured(documents))
    assert message.startswith(f"template 'mine' with K=0 gives prompts without a token for {named}")
    assert "give the template a word of its own" in message


def test_inputs_without_content_count_too(configured):
    message = refusal_of(configured(scoring={"calibration": ["contextual"]}))
    assert "1 samples ('content-free:')" in message


@pytest.mark.parametrize("more", [{"k": [2]}, {"prefix": "영화평. "}, {"query": "{document}\n감정:"}])
def test_prompts_with_a_word_beside_are_not(configured, more):
    assert measure(prepare(configured(("재미", "1/10"), **more)), 8)


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        ([" 긍정", " 긍정 0"], "the label ' 긍정 0' begins, in tokens, with the label ' 긍정'"),
        ([" 좋아요!", " 좋아요"], "the label ' 좋아요!' begins, in tokens, with the label ' 좋아요'"),
        ([" 1", " 1 0"], "the label ' 1 0' begins, in tokens, with the label ' 1'"),
    ],
)
def test_a_label_that_begins_another_is_refused(configured, labels, what):
    message = refusal_of(configured(query="문장: {document}\n감정:", labels=labels))
    assert what in message
    assert "never has the lower log-probability" in message


def test_labels_that_differ_in_white_space_alone_are_refused(configured):
    message = refusal_of(configured(query="문장: {document}\n감정:", labels=[" 긍정", " 긍정\n"]))
    assert "' 긍정' and ' 긍정\\n'" in message and "expected different words" in message


def test_labels_that_begin_alike_in_text_only_are_not(configured):
    assert measure(prepare(configured(query="문장: {document}\n감정:", labels=[" 긍정\n", " 긍정적\n"])), 8)


def test_a_label_that_begins_another_may_be_generated(configured):
    config = configured(query="문장: {document}\n감정:", labels=[" 긍정", " 긍정!"], scoring={"method": "generate"})
    assert measure(prepare(config), 8)


@pytest.mark.parametrize("labels", [[" {긍정}", " {부정}"], [" {{긍정}}", " {document}"], [" {", " }"]])
def test_braces_of_labels_are_text(configured, labels):
    prepared = prepare(configured(query="문장: {document}\n감정:", labels=labels, k=[0, 2]))
    measure(prepared, 8)
    setup = prepared.models[0]
    prompts = prepared.renderer(setup, "mine", 1).prompts(prepared.data.samples, 1, [2])
    whole = setup.tokenizer.whole
    for prompt in prompts:
        assert all(label in prompt.text for label in labels)
        assert [prompt.ids + list(ids) for ids in prompt.label_ids] == [whole(prompt.text + label) for label in labels]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["부정", "긍정적이다"], True),
        ([" 부정", " 별로였다고 한다"], True),
        ([" 부정", " 긍정"], False),
    ],
)
def test_labels_of_unequal_token_counts_are_said(configured, labels, said):
    config = configured(query="문장: {document}\n감정:", labels=labels)
    report = make_report(config)
    counts = " and ".join(str(len(tokens)) for tokens in report.audits[0].label_tokens)
    out = StringIO()
    write_plan(Console(file=out, width=200), report)
    line = f"labels have {counts} tokens: sums of log-probabilities tend to favour the shorter"
    assert (line in out.getvalue()) == said

    cells = run(config).cells
    found = [note for note in table_notes(config.run_dir, cells) if "tokens" in note]
    assert found == ([f"- mine: {line}"] if said else [])
    shown = CliRunner().invoke(app, ["show", config.run_dir])
    assert (f"- mine: {line}" in shown.stdout) == said
    as_json = CliRunner().invoke(app, ["show", config.run_dir, "--format", "json"])
    assert json.loads(as_json.stdout)


def test_a_damaged_list_of_prompts_leaves_the_table(configured):
    config = configured(query="문장: {document}\n감정:")
    cells = run(config).cells
    for text in ("[]", "{", '{"prompts": [1]}'):
        Path(config.run_dir, "prompts.json").write_text(text, encoding="utf-8")
        assert "damaged" in table_notes(config.run_dir, cells)[0]
        assert "0.5" in CliRunner().invoke(app, ["show", config.run_dir]).stdout
