"""Rotary positions that switch with a sequence's length: every prompt gets the scores it has by itself."""

import random

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from harness.engine.local.generator import Generator
from harness.engine.local.parity import sharing_error
from harness.engine.local.rope_regimes import Regimes
from harness.engine.local.scorer import Scorer
from tests.models import COMMON, GQA, random_model
from tests.scoring import naive_scores
from tests.test_generator import never

SWITCH = 40
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": SWITCH,
    "short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [3.0 + 2.0 * i for i in range(8)],
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 8.0}
MODELS = {
    "phi3": {**COMMON, **GQA, "rope_parameters": LONGROPE, "max_position_embeddings": 512, "pad_token_id": 0,
             "original_max_position_embeddings": SWITCH},
    "llama": {**COMMON, **GQA, "rope_parameters": DYNAMIC, "max_position_embeddings": SWITCH},
    "qwen2": {**COMMON, **GQA, "rope_parameters": LONGROPE, "max_position_embeddings": 512},
    "gpt_neox": {**COMMON, **GQA, "rope_parameters": {**DYNAMIC, "partial_rotary_factor": 0.5},
                 "max_position_embeddings": SWITCH},
}  # fmt: skip


def prompts(lengths, seed=0):
    """Prompts that begin alike, of which each has a length."""
    rng = random.Random(seed)
    trunk = [rng.randrange(4096) for _ in range(16)]
    contexts = [trunk[: min(16, n - 1)] + [rng.randrange(4096) for _ in range(max(1, n - 16))] for n in lengths]
    assert [len(c) for c in contexts] == list(lengths)
    return contexts, [[[rng.randrange(4096)], [rng.randrange(4096)]] for _ in contexts]


def alone(kind, contexts, labels):
    """Each prompt by a model that has never seen another."""
    found = []
    for context, row in zip(contexts, labels, strict=True):
        found.append(naive_scores(random_model(kind, **MODELS[kind]), [context], [row])[0][0])
    return np.array(found)


LENGTHS = (12, 30, SWITCH - 1, SWITCH, SWITCH + 1, 55, 80, 80)


@pytest.mark.parametrize("kind", MODELS)
def test_the_switch_changes_scores_at_all(kind):
    """Else the tests below would prove nothing: a short prompt in a long one's batch differs."""
    model = random_model(kind, **MODELS[kind])
    contexts, _ = prompts((30, 80))
    padded = torch.tensor([contexts[0] + [0] * 50, contexts[1]])
    with torch.inference_mode():
        together = model(padded).logits[0, 29]
        by_itself = random_model(kind, **MODELS[kind])(torch.tensor([contexts[0]])).logits[0, -1]
    assert (together - by_itself).abs().max() > 0.01


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("tokens_per_pack", [100, 2048])
def test_prompts_on_both_sides_of_the_switch_score_as_by_themselves(kind, share, tokens_per_pack):
    contexts, labels = prompts(LENGTHS)
    expected = alone(kind, contexts, labels)
    scorer = Scorer(random_model(kind, **MODELS[kind]), tokens_per_pack, share)
    for order in (range(8), reversed(range(8)), [6, 0, 3, 7, 1, 5, 2, 4]):
        order = list(order)
        found = scorer.score([contexts[i] for i in order], [labels[i] for i in order]).logprobs
        assert np.abs(found - expected[order]).max() < 1e-4


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("share", [True, False])
def test_short_prompts_after_a_long_one_score_as_before_it(kind, share):
    """Dynamic NTK keeps the frequencies of the longest sequence until a short one comes."""
    scorer = Scorer(random_model(kind, **MODELS[kind]), 2048, share)
    contexts, labels = prompts((SWITCH, 30, SWITCH + 5, 100))
    for some in (slice(0, 2), slice(2, 3)):
        before = scorer.score(contexts[some], labels[some]).logprobs
        scorer.score(contexts[3:], labels[3:])
        assert np.array_equal(scorer.score(contexts[some], labels[some]).logprobs, before)


@pytest.mark.parametrize("kind", ["phi3", "qwen2"])
def test_sharing_depends_on_the_longest_prompt(make_model, kind):
    """A switch that no prompt reaches is no obstacle."""
    far = {**MODELS[kind], "rope_parameters": {**LONGROPE, "original_max_position_embeddings": 400}}
    model = make_model(kind, **{**far, **({"original_max_position_embeddings": 400} if kind == "phi3" else {})})
    assert sharing_error(model, 300) is None
    assert "its rotary positions change beyond 400 tokens" in sharing_error(model, 401)


def test_a_model_whose_positions_switch_is_not_shared(make_model):
    reason = sharing_error(make_model("llama", **MODELS["llama"]), SWITCH + 1)
    assert f"beyond {SWITCH} tokens" in reason


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("share", [True, False])
def test_answers_across_the_switch_are_those_of_each_prompt_by_itself(kind, share):
    contexts, _ = prompts((SWITCH - 3, 20, SWITCH - 2, 60, 20))
    expected = []
    for context in contexts:
        ids = torch.tensor([context])
        with torch.inference_mode():
            out = random_model(kind, **MODELS[kind]).generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=0
            )
        expected.append(out[0, len(context) :].tolist())
    scorer = Scorer(random_model(kind, **MODELS[kind]), 2048, share)
    for order in ([0, 1, 2, 3, 4], [3, 2, 4, 1, 0]):
        found = Generator(scorer).generate([contexts[i] for i in order], 8, never)
        assert found.tokens == [expected[i] for i in order]


def test_models_with_one_kind_of_positions_have_one_regime():
    for kind in ("llama", "gpt2", "gpt_neox"):
        regimes = Regimes(random_model(kind))
        assert regimes.limit is None
        assert not regimes.differ_within(10**6)
        assert regimes.of(10**6, 100) == 0


def test_settings_of_older_configurations_are_understood():
    class Old:
        """As code of a checkpoint may bring it."""

        def __init__(self, **settings):
            self.__dict__ |= settings

        def get_text_config(self):
            return self

    class Model:
        def __init__(self, **settings):
            self.config = Old(**settings)

        def modules(self):
            return []

    su = Model(rope_scaling={"type": "su"}, original_max_position_embeddings=4096, max_position_embeddings=131072)
    assert Regimes(su).limit == 4096
    assert [Regimes(su).of(n) for n in (4096, 4097, 9000)] == [0, 1, 1]
    ntk = Model(use_dynamic_ntk=True, seq_length=2048, max_position_embeddings=8192)
    assert [Regimes(ntk).of(n) for n in (2048, 2049, 9000)] == [0, 2049, 9000]
    linear = Model(rope_scaling={"type": "linear", "factor": 2.0}, max_position_embeddings=4096)
    assert Regimes(linear).limit is None
    by_layer = AutoConfig.for_model("gemma3_text", vocab_size=64)
    by_layer.rope_parameters["full_attention"] = {**DYNAMIC}
    assert Regimes(type("M", (Model,), {"__init__": lambda self: setattr(self, "config", by_layer)})()).limit == (
        by_layer.max_position_embeddings
    )
