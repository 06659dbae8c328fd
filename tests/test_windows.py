"""Sliding windows, soft caps and sinks over a prefix tree: prompts share, and score as each by itself."""

import copy
import random

import numpy as np
import pytest
import torch

from harness.core.errors import ModelError
from harness.engine.local.attention import rules
from harness.engine.local.generator import Generator
from harness.engine.local.parity import LogitsDiffer, rounding_alone, sharing_error
from harness.engine.local.scorer import Scorer
from harness.engine.local.tree.tree import Origin
from tests.models import COMMON, GQA, random_model
from tests.scoring import naive_scores
from tests.test_generator import never

WINDOW = 64
SHARPNESS = 160.0
NARROW = {**COMMON, **GQA, "sliding_window": WINDOW}
MODELS = {
    "gemma3_text": {**NARROW, "head_dim": 32, "num_hidden_layers": 4, "pad_token_id": 0,
                    "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
    "gemma2": {**NARROW, "head_dim": 32, "pad_token_id": 0, "final_logit_softcapping": None},
    "exaone4": {**NARROW, "num_hidden_layers": 4},
    "gpt_oss": {**NARROW, "head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2},
    "mistral": NARROW,
    "qwen2": {**NARROW, "use_sliding_window": True, "max_window_layers": 1},
}  # fmt: skip


def model_of(kind, **settings):
    """Sinks are drawn too: zeros would be hard to see."""
    model = random_model(kind, **{**MODELS[kind], **settings})
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "sinks"):
                module.sinks.normal_(std=2.0)
    return model


def prompts(sizes, seed=0):
    """Prompts of a trunk's beginning and a tail of their own."""
    rng = random.Random(seed)
    trunk = [rng.randrange(4096) for _ in range(300)]
    contexts = [trunk[:depth] + [rng.randrange(4096) for _ in range(tail)] for depth, tail in sizes]
    return contexts, [[[rng.randrange(4096)], [rng.randrange(4096), rng.randrange(4096)]] for _ in contexts]


SIZES = [(0, 5), (30, 40), (150, 100), (300, 20), (300, 100), (300, 99), (300, 1), (63, 1), (64, 1), (65, 1)]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("tokens_per_pack", [100, 2048])
def test_prompts_of_400_tokens_share_and_score_as_by_themselves(kind, tokens_per_pack):
    contexts, labels = prompts(SIZES)
    assert max(map(len, contexts)) == 400
    expected = naive_scores(model_of(kind), contexts, labels)[0]
    model = model_of(kind)
    assert sharing_error(model, 400) is None
    found = Scorer(model, tokens_per_pack, True).score(contexts, labels)
    assert np.abs(found.logprobs - expected).max() < 1e-4
    assert found.tokens_computed < sum(map(len, contexts)) / 2


@pytest.mark.parametrize("kind", MODELS)
def test_the_window_matters_at_all(kind):
    """Else the test above would prove nothing."""
    contexts, labels = prompts(SIZES[3:4])
    wide, narrow = (naive_scores(model_of(kind, sliding_window=size), contexts, labels)[0] for size in (4096, WINDOW))
    assert np.abs(wide - narrow).max() > 0.01


@pytest.mark.parametrize("kind", ["gemma3_text", "gpt_oss"])
def test_trunks_that_are_kept_are_seen_through_the_window(kind):
    contexts, labels = prompts([(300, n) for n in (3, 9, 20, 33)])
    expected = naive_scores(model_of(kind), contexts, labels)[0]
    scorer = Scorer(model_of(kind), 512, True)
    origins = [Origin(i, 300) for i in range(4)]
    halves = [scorer.score(contexts[part], labels[part], origins[part]) for part in (slice(0, 2), slice(2, 4))]
    assert np.abs(np.concatenate([half.logprobs for half in halves]) - expected).max() < 1e-4


@pytest.mark.parametrize("kind", MODELS)
def test_answers_are_those_of_each_prompt_by_itself(kind):
    contexts, _ = prompts([(0, 5), (50, 10), (150, 20)])
    expected = []
    model = model_of(kind)
    for context in contexts:
        ids = torch.tensor([context])
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False,
                                 pad_token_id=0)  # fmt: skip
        expected.append(out[0, len(context) :].tolist())
    found = Generator(Scorer(model_of(kind), 2048, True)).generate(contexts, 6, never)
    assert found.tokens == expected


def test_a_model_that_hides_its_window_is_not_shared(monkeypatch):
    """Its own mask knows the window, but what it hands to its attention does not tell."""
    whole = rules.attend_by_options

    def without(state, pack, layer, vectors, scale, options):
        return whole(state, pack, layer, vectors, scale, {**options, "sliding_window": None})

    monkeypatch.setattr("harness.engine.local.attention.tree_attention.attend_by_options", without)
    assert "packed and plain logits differ" in sharing_error(model_of("gemma3_text"), 400)
    wide = model_of("gemma3_text", sliding_window=390)
    assert "packed and plain logits differ" in sharing_error(wide, 400), "the check's own texts are shorter"
    assert wide.config.sliding_window == 390


def test_a_window_that_no_prompt_reaches_changes_no_bit():
    contexts, labels = prompts(SIZES)
    wide, none = (
        Scorer(random_model("mistral", **{**NARROW, "sliding_window": size}), 512, True).score(contexts, labels)
        for size in (4096, None)
    )
    assert np.array_equal(wide.logprobs, none.logprobs)


def test_logits_that_are_capped_too_are_not_shared():
    assert "changes its logits after the head" in sharing_error(model_of("gemma2", final_logit_softcapping=30.0), 400)


def chaotic_model():
    """In bfloat16 attention is so sharp that rounding decides whom a token attends to."""
    model = model_of("gemma3_text")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_norm" in name:
                weight.fill_(SHARPNESS)
    return model.bfloat16()


def in_float32(model):
    return copy.deepcopy(model).float()


def test_a_model_that_bfloat16_alone_scatters_shares_all_the_same():
    model = chaotic_model()
    notice = sharing_error(model, 400)
    assert isinstance(notice, LogitsDiffer)
    assert rounding_alone(model, 400, lambda: in_float32(model))
    assert model.dtype == torch.bfloat16


def test_a_wrong_mask_is_found_behind_the_rounding(monkeypatch):
    whole = rules.attend_by_options

    def without(state, pack, layer, vectors, scale, options):
        return whole(state, pack, layer, vectors, scale, {**options, "sliding_window": None})

    monkeypatch.setattr("harness.engine.local.attention.tree_attention.attend_by_options", without)
    model = chaotic_model()
    assert isinstance(sharing_error(model, 400), LogitsDiffer)
    assert not rounding_alone(model, 400, lambda: in_float32(model))


def test_float32_itself_and_a_copy_that_does_not_fit_or_load_explain_nothing(monkeypatch):
    model = chaotic_model()

    def refuse():
        raise ModelError("weights of 4 bits")

    assert not rounding_alone(model, 400, refuse)
    assert not rounding_alone(in_float32(model), 400, lambda: model)
    monkeypatch.setattr("harness.engine.local.parity._free_bytes", lambda device: 1000)
    assert not rounding_alone(model, 400, lambda: in_float32(model))
