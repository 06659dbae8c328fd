"""CLIcK, questions with choices of their own, on real data: all load, prefixes are shared, scores are right."""

import numpy as np
import pytest

from harness.config.loading import load_config
from harness.core.prefixes import count_unique_tokens
from harness.engine.local.engine import ENGINE
from harness.planning.lengths import measure
from harness.planning.preparation import prepare
from harness.prompts.choices import SCORES
from harness.running.asking import Asking, open_settings
from tests.conftest import KO_TINY, REPO, SHARED


@pytest.fixture(scope="module")
def click():
    """Prepared runs on CLIcK, by the number of questions."""
    folder = SHARED / "data" / "click"
    if not folder.is_dir():
        pytest.skip("no CLIcK files: ../shared/data/click beside the repository is absent")

    def prepared(limit, **grid):
        words = [f"task.data_dir={folder}", f"model.path={KO_TINY}", "model.dtype=float32"]
        words += [f"task.limit={limit}", *(f"grid.{key}={value}" for key, value in grid.items())]
        return prepare(load_config(REPO / "configs" / "click.yaml", words))

    return prepared


def asked(prepared, name, share_prefixes):
    """Prompts of a template without demonstrations, and what the embedded model says."""
    engine = ENGINE.open(prepared.config.entries[0], open_settings(prepared.config.engine, 2048, share_prefixes))
    setup = prepared.models[0]
    prompts = prepared.renderer(setup, name, 1).prompts(prepared.data.samples, 1, [0])
    asking = Asking(engine, "likelihood", prepared.task, prepared.config.generation, setup.tokenizer)
    return prompts, asking.ask(prompts, asking.prepare(prompts))


def own(prompts, scores):
    return [row[: len(p.label_ids)] for p, row in zip(prompts, scores.logprobs, strict=True)]


def test_no_question_is_lost(click):
    prepared = click("null")
    everyone = [*prepared.data.samples, *prepared.data.pool]
    assert len(everyone) == 1995
    assert [sum(len(s.choices) == n for s in everyone) for n in (4, 5)] == [1739, 256]
    assert "rows that have a choice twice: 1; an answer in words means the first" in prepared.data.notes


@pytest.mark.parametrize("n", [12, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["letters", "cloze"])
def test_prefixes_are_shared_and_scores_are_those_of_unshared_prompts(click, name, n):
    prepared = click(n, templates=f"[{name}]")
    prompts, shared = asked(prepared, name, True)
    unique = count_unique_tokens([[*p.ids, *ids[:-1]] for p in prompts for ids in p.label_ids])
    assert unique <= shared.tokens_computed <= 1.05 * unique
    assert measure(prepared, n)[0].tokens_unique == pytest.approx(unique, rel=1e-3)
    _, alone = asked(prepared, name, False)
    assert alone.tokens_computed > 1.5 * unique
    for one, other in zip(own(prompts, shared), own(prompts, alone), strict=True):
        # Labels of a hundred nats and more have float32's own noise: of one, 2e-5 shared and 9e-5 alone beside float64.
        assert np.allclose(one, other, rtol=1e-6, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["letters", "cloze"])
def test_scores_and_accuracies_are_those_of_lm_evaluation_harness(click, name, ko_tiny, ko_tokenizer):
    """`multiple_choice` of its version 0.4.13 on the same 200 prompts."""
    pytest.importorskip("lm_eval", reason="pip install -e '.[bench]'")
    from datasets import Dataset
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    prompts, shared = asked(click(200, templates=f"[{name}]"), name, True)
    rows = [
        {"text": p.text, "options": [label.removeprefix(" ") for label in p.labels], "gold": p.sample.gold}
        for p in prompts
    ]
    metrics = ("acc", "acc_norm", "acc_bytes")
    task = ConfigurableTask(
        config={
            "task": "click",
            "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{text}}",
            "doc_to_choice": "options",
            "doc_to_target": "gold",
            "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics],
        }
    )
    ko_tiny.set_attn_implementation("sdpa")
    lm = HFLM(pretrained=ko_tiny, tokenizer=ko_tokenizer, batch_size=4)
    found = simple_evaluate(lm, tasks=[task], log_samples=True, bootstrap_iters=0)
    samples = sorted(found["samples"]["click"], key=lambda sample: sample["doc_id"])
    assert len(samples) == 200
    for sample, logprobs in zip(samples, own(prompts, shared), strict=True):
        assert np.abs(np.asarray([score for score, _ in sample["filtered_resps"]]) - logprobs).max() < 1e-4
    for metric, score in zip(metrics, ("sum", "per_character", "per_byte"), strict=True):
        assert score in SCORES
        hits = [
            p.choices.choose(p.sample, logprobs, list(map(len, p.label_ids)), score) == p.sample.gold
            for p, logprobs in zip(prompts, own(prompts, shared), strict=True)
        ]
        assert found["results"]["click"][f"{metric},none"] == pytest.approx(np.mean(hits), abs=1e-4)
