"""The first layer's results per token are computed once, and nothing changes by that."""

import numpy as np
import pytest
import torch

from harness.engine.local.layers.first_layer import FirstLayer
from harness.engine.local.parity import sharing_error
from harness.engine.local.scorer import Scorer
from harness.engine.local.tree.packing import ROW_STEP
from tests.scoring import random_grid
from tests.test_last_layer import seen_rows
from tests.test_scorer import COMPANY, KINDS


def one_token(labels):
    return [[row[0][:1], row[1][:1]] for row in labels]


def grid(seed):
    contexts, labels = random_grid(seed)
    return contexts, one_token(labels)


def with_capacity(scorer, capacity):
    scorer.first_layer.capacity = capacity
    return scorer


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_whole_layer(random_models, kind):
    contexts, labels = random_grid(seed=31)
    whole = Scorer(random_models[kind], 200, True)
    whole.first_layer.parts = {}
    expected = whole.score(contexts, labels)
    scorer = Scorer(random_models[kind], 200, True)
    for _ in range(2):
        found = scorer.score(contexts, labels)
        assert np.abs(found.logprobs - expected.logprobs).max() <= COMPANY
        assert np.array_equal(found.argmax, expected.argmax)


def test_each_token_is_computed_once_in_all_calls(random_models):
    scorer = Scorer(random_models["gpt_neox"], 200, True)
    counts = [seen_rows(part) for part in scorer.first_layer.parts]
    asked = [grid(seed) for seed in (21, 22, 21)]
    for contexts, labels in asked:
        scorer.score(contexts, labels)
    tokens = {token for contexts, _ in asked for context in contexts for token in context}
    for rows in counts:
        assert len(rows) > 5, "packs"
        assert len(tokens) <= sum(rows) <= len(tokens) + ROW_STEP * len(rows)
    before = [len(rows) for rows in counts]
    scorer.score(*asked[0])
    for rows, n in zip(counts, before, strict=True):
        assert set(rows[n:]) == {ROW_STEP}, "nothing but rows that fill up"


def test_room_for_few_tokens_is_used_again(random_models):
    contexts, labels = grid(21)
    expected = Scorer(random_models["llama"], 100, True).score(contexts, labels)
    scorer = with_capacity(Scorer(random_models["llama"], 100, True), 260)
    counts = seen_rows(next(iter(scorer.first_layer.parts)))
    for _ in range(2):
        packs = len(counts)
        found = scorer.score(contexts, labels)
        assert np.abs(found.logprobs - expected.logprobs).max() <= COMPANY
    distinct = len({token for context in contexts for token in context})
    assert distinct > 260
    again = counts[packs:]
    assert sum(again) - ROW_STEP * len(again) >= distinct - 260, "what found no room was computed once more"
    (results,) = {rows.shape[0] for rows in scorer.first_layer.results.values()}
    assert results == 260


def test_a_pass_of_more_tokens_than_there_is_room_for_is_computed_whole(random_models):
    contexts, labels = grid(21)
    expected = Scorer(random_models["llama"], 400, True).score(contexts, labels)
    scorer = with_capacity(Scorer(random_models["llama"], 400, True), 20)
    counts = seen_rows(next(iter(scorer.first_layer.parts)))
    found = scorer.score(contexts, labels)
    assert np.abs(found.logprobs - expected.logprobs).max() <= COMPANY
    assert sum(counts) > 0.9 * found.tokens_computed


def test_a_pass_that_fails_leaves_nothing_half_written(random_models):
    contexts, labels = grid(21)
    model = random_models["qwen3"]
    expected = Scorer(model, 200, True).score(contexts, labels)
    scorer = Scorer(model, 200, True)
    last = list(scorer.first_layer.parts)[-1]

    def fail(module, inputs):
        raise RuntimeError("half way")

    handle = last.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="half way"):
        scorer.score(contexts, labels)
    handle.remove()
    assert scorer.first_layer.used == 0
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in scorer.first_layer.parts)
    assert np.abs(scorer.score(contexts, labels).logprobs - expected.logprobs).max() <= COMPANY


def test_a_wrong_part_is_found_by_the_load_time_check(random_models, monkeypatch):
    """A part that was taken to depend on the token alone, and does not, costs sharing and not the truth."""
    model = random_models["llama"]
    layer = model.base_model.layers[0]
    original = FirstLayer.__init__
    monkeypatch.setattr(
        FirstLayer, "__init__", lambda self, parts, *rest: original(self, {**parts, layer.mlp: 64}, *rest)
    )
    assert "packed and plain logits differ" in sharing_error(model, 500)


def test_smaller_packs_give_memory_back(random_models):
    contexts, labels = grid(21)
    scorer = Scorer(random_models["llama"], 200, True)
    expected = scorer.score(contexts, labels)
    assert scorer.first_layer.results
    scorer.halve_pack(MemoryError())
    assert not scorer.first_layer.results
    assert scorer.tokens_per_pack == 100
    assert np.abs(scorer.score(contexts, labels).logprobs - expected.logprobs).max() <= COMPANY


def test_rows_that_are_never_written_take_no_memory():
    """A table for a large vocabulary is not touched before its tokens come."""
    part = torch.nn.Linear(8, 8)
    first = FirstLayer({part: 8}, torch.empty(1000, 8), 100)
    assert not first.results
    with torch.inference_mode(), first.remembering(np.arange(50)):
        part(torch.randn(1, 50, 8))
    assert first.results[part].shape == (1000, 8)
    assert first.used == 50
