"""`boundary: exact`: labels are what prompt and label have together beyond the prompt, merged or not."""

import random

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.config.schema import DemosConfig
from harness.core.errors import TemplateError
from harness.core.task import Sample
from harness.planning.identity import wording_of
from harness.prompts.demonstrations import Pool, PoolDraw
from harness.prompts.draws import draw_of
from harness.prompts.rendering import Renderer
from harness.prompts.templates import Template, read_templates
from harness.prompts.tokenizing import PromptTokenizer
from tests.conftest import DEMO, KO_TINY
from tests.test_korean_tasks import as_lm_evaluation_harness

GLUED = Template("glued", "리뷰: {x}", ("다 라", "라 라"), separators=("\n", "\n"), is_exact=True)
SPACED = Template("spaced", "리뷰: {x}\n답: ", (" 예", "아니오"), separators=("\n\n", ""), is_exact=True)


def renderer(template, tokenizer):
    pool = Pool(tuple(Sample(f"p{n}", {"x": f"예문 {n}"}, n % 2) for n in range(6)), 2, "x")
    return Renderer(template, PoolDraw(pool, draw_of(DemosConfig())), 3, tokenizer)


@pytest.mark.parametrize("template", [GLUED, SPACED], ids=lambda template: template.name)
def test_prompts_and_labels_are_split_as_lm_evaluation_harness_splits_them(template, ko_tokenizer):
    rng = random.Random(3)
    texts = ["".join(rng.choice("가나다 라마바.\n1a") for _ in range(rng.randrange(1, 30))) for _ in range(200)]
    samples = [Sample(str(n), {"x": text + rng.choice(("재미있", "없", "좋", "1"))}) for n, text in enumerate(texts)]
    tokenizer = PromptTokenizer(ko_tokenizer)
    merged = 0
    for prompt in renderer(template, tokenizer).prompts(samples, 1, [0, 3]):
        context = prompt.text + (" " if template is SPACED else "")
        expected = [as_lm_evaluation_harness(ko_tokenizer, context, label) for label in template.labels]
        assert [(prompt.ids, list(ids)) for ids in prompt.label_ids] == expected
        whole = [ko_tokenizer(context + label)["input_ids"] for label in template.labels]
        merged += sum([*prompt.ids, *ids] != full for ids, full in zip(prompt.label_ids, whole, strict=True))
    assert (merged > 0) is (template is GLUED)


def test_without_it_a_label_that_merges_is_refused(ko_tokenizer):
    from dataclasses import replace

    samples = [Sample(str(n), {"x": text}) for n, text in enumerate(("좋았", "정말", "재미있", "없"))]
    with pytest.raises(TemplateError, match="merges with the end of its context"):
        renderer(replace(GLUED, is_exact=False), PromptTokenizer(ko_tokenizer)).prompts(samples, 1, [0])


def test_a_label_without_a_token_of_its_own_is_refused_all_the_same(ko_tokenizer):
    from dataclasses import replace

    with pytest.raises(TemplateError, match="the label '다' has no token beyond those of its prompt"):
        swallowed = replace(GLUED, labels=("다", "라 라"))
        renderer(swallowed, PromptTokenizer(ko_tokenizer)).prompts([Sample("1", {"x": "없"})], 1, [0])


def test_other_templates_are_identified_as_before():
    assert "is_exact" not in wording_of(Template("a", "{x}", (" a", " b")))
    assert wording_of(GLUED)["is_exact"] is True


@pytest.mark.parametrize(
    ("text", "classes", "message"),
    [
        ("{query: '{x}', labels: [a, b], boundary: whole}", ("a", "b"), "boundary is 'whole', expected safe or exact"),
        ("{query: '{x}', labels: [a, b], boundary: exact, render: chat}", ("a", "b"), "is for labels behind plain"),
        ("{query: '{x}', answer: '{answer}', boundary: exact}", (), "is for labels behind plain prompts"),
    ],
)
def test_where_it_means_nothing_it_is_refused(tmp_path, text, classes, message):
    (tmp_path / "t.yaml").write_text(f"t: {text}\n", encoding="utf-8")
    with pytest.raises(TemplateError, match=message):
        read_templates(tmp_path / "t.yaml", classes)


def test_the_plan_and_the_run_say_and_do_the_same(tmp_path, ko_tiny):
    import harness
    from tests.scoring import naive_scores

    (tmp_path / "t.yaml").write_text(
        'spaced: {query: "리뷰: {document}\\n답: ", labels: [" 부정", "긍정"], boundary: exact}\n', encoding="utf-8"
    )
    (tmp_path / "g.yaml").write_text(
        f"name: e\nout: {tmp_path}\nmodel: {{path: {KO_TINY}, dtype: float32}}\n"
        f"task: {{data_dir: {DEMO}, templates_file: {tmp_path}/t.yaml, limit: 12}}\n"
        "grid: {templates: [spaced], k: [0, 2], seeds: [1]}\ncluster: {address: inline}\n",
        encoding="utf-8",
    )
    done = CliRunner().invoke(app, ["plan", str(tmp_path / "g.yaml")])
    assert done.exit_code == 0, done.output
    told = " ".join(done.stdout.split())
    assert (
        "boundary exact, tokenised whole as lm-evaluation-harness does: the query's ' ' is scored with the label"
        in told
    )
    harness.run(str(tmp_path / "g.yaml"))
    from harness.config.loading import load_config
    from harness.planning.preparation import prepare

    prepared = prepare(load_config(tmp_path / "g.yaml", []))
    records = harness.load_records(str(tmp_path / "e")).set_index(["k", "sample_id"])
    for prompt in prepared.renderer(prepared.models[0], "spaced", 1).prompts(prepared.data.samples, 1, [0, 2]):
        expected = naive_scores(ko_tiny, [prompt.ids], [prompt.label_ids])[0][0]
        assert prompt.labels == ("  부정", " 긍정")
        assert np.abs(records.loc[(prompt.k, prompt.sample.id), "label_logprobs"] - expected).max() < 1e-4
