"""Logits and their log-sum-exps against float64, for heads of every size and number format."""

import numpy as np
import pytest
import torch

from harness.engine.local import memory
from harness.engine.local.layers.head import Head, last_logits, log_sum_exp
from harness.engine.local.scorer import Scorer
from tests.scoring import assert_scores, naive_scores, random_grid

ROWS, HIDDEN, VOCABULARY = 19, 64, 3000


def make_head(dtype, bias=False):
    generator = torch.Generator().manual_seed(0)
    module = torch.nn.Linear(HIDDEN, VOCABULARY, bias=bias)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return module.to(dtype), torch.randn(ROWS, HIDDEN, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("converted", [2**26, 10_000, 64])
@pytest.mark.parametrize("kept", [2**31, 0])
def test_logits_are_those_of_float64(monkeypatch, dtype, bias, converted, kept):
    monkeypatch.setattr(memory, "CONVERTED_AT_ONCE", converted)
    monkeypatch.setattr(memory, "KEPT_CONVERTED_BYTES", kept)
    module, hidden = make_head(dtype, bias)
    exact = torch.nn.functional.linear(hidden.double(), module.weight.double(), module.bias.double() if bias else None)
    head = Head(module)
    logits = head(hidden)
    assert logits.dtype == (torch.float64 if dtype == torch.float32 and converted == 2**26 else torch.float32)
    assert (logits - exact).abs().max() < (1e-12 if logits.dtype == torch.float64 else 2e-5)
    assert (head.weight.dtype == head.dtype) == (dtype == torch.float32 or converted == 2**26 or kept > 0)


@pytest.mark.parametrize("n", [1, 3, 16])
def test_few_rows_have_the_bits_of_many(monkeypatch, n):
    monkeypatch.setattr(memory, "CONVERTED_AT_ONCE", 64)
    module, hidden = make_head(torch.float32)
    head = Head(module)
    assert torch.equal(head(hidden[:n]), head(hidden)[:n])
    assert head(hidden[:0]).shape == (0, VOCABULARY)


@pytest.mark.parametrize("spread", [0.1, 10.0])
def test_sums_over_a_large_vocabulary_are_off_by_one_float32_exponential_at_most(spread):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 2**18, generator=generator) * spread
    exact = logits.double().logsumexp(-1, keepdim=True)
    assert (log_sum_exp(logits) - exact).abs().max() < 2**-23
    assert torch.equal(log_sum_exp(logits[:, :100]), logits[:, :100].logsumexp(-1, keepdim=True))


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_a_large_head_scores_as_the_naive_loop(random_models, monkeypatch, kind):
    monkeypatch.setattr(memory, "CONVERTED_AT_ONCE", 1000)
    monkeypatch.setattr(memory, "LARGE_VOCABULARY", 1000)
    contexts, labels = random_grid(seed=71)
    scores = Scorer(random_models[kind], 512, True).score(contexts, labels)
    assert_scores(scores, naive_scores(random_models[kind], contexts, labels), tolerance=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_the_logits_of_the_last_token_are_the_models_own(random_models, kind):
    model, ids = random_models[kind], torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        expected = model(input_ids=ids).logits[0, -1]
        found = last_logits(model, ids)
    assert np.allclose(found, expected, atol=1e-5)


def test_memory_counts_what_a_head_keeps():
    small, large, huge = 2**26, 2**28, 2**30
    assert memory.keeps_converted(small, 2, "cpu")
    assert memory.keeps_converted(large, 2, "cpu")
    assert not memory.keeps_converted(huge, 2, "cpu")
    assert not memory.keeps_converted(large, 2, "cuda")
    assert not memory.keeps_converted(large, 4, "cpu")
