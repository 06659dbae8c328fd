"""Scores: shared, unshared and a naive loop over `model(ids).logits` agree, whatever the packs."""

import copy
import os
import random

import numpy as np
import pytest
import torch

from harness.core.prefixes import count_unique_tokens
from harness.engine.local import scorer as scorer_module
from harness.engine.local.layers.packed_weights import pack_weights
from harness.engine.local.layers.reproducibility import VARIABLE
from harness.engine.local.parity import sharing_error
from harness.engine.local.scorer import Scorer
from harness.engine.local.tree.tree import Origin, build_tree
from harness.planning.preparation import prepare
from tests.scoring import assert_scores, naive_scores, random_grid

KINDS = ["gpt_neox", "llama", "qwen2", "qwen3", "gpt2"]


def test_a_scorer_that_does_not_share_works_after_one_that_does(random_models):
    contexts, labels = random_grid(seed=21, n_queries=1)
    model = random_models["qwen2"]
    shared = Scorer(model, 512, True).score(contexts, labels)
    unshared = Scorer(model, 512, False).score(contexts, labels)
    assert np.abs(shared.logprobs - unshared.logprobs).max() < 1e-4


def grid_prompts(config):
    """Per (template, seed): all prompts of all K."""
    prepared = prepare(config)
    for name in config.grid.templates:
        for seed in config.grid.seeds:
            renderer = prepared.renderer(prepared.models[0], name, seed)
            yield renderer.prompts(prepared.data.samples, seed, config.grid.k)


COMPANY = 0.0 if torch.backends.cpu.get_cpu_capability() == "AVX2" or VARIABLE in os.environ else 1e-6
"""How far scores may move with what is scored beside them; products of other processors were not looked at."""


def origins_of(prompts):
    return [Origin(p.sample.id, p.fork) for p in prompts]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("policy", ["fixed", "bank", "per_sample"])
def test_forked_scores_are_those_of_the_naive_loop_bit_by_bit_in_any_company(ko_tiny, make_config, policy, packed):
    """float32: packs of any size, samples together, in pairs or alone; the naive loop within rounding."""
    model = copy.deepcopy(ko_tiny)
    model.set_attn_implementation("sdpa")
    if packed:
        pack_weights(model)
    config = make_config(
        task={"limit": 9}, grid={"templates": ["lecture_1"], "k": [0, 2, 8], "seeds": [1]},
        demos={"policy": policy, "bank_size": 2},
    )  # fmt: skip
    (prompts,) = grid_prompts(config)

    def scored(size, tokens_per_pack):
        scorer = Scorer(model, tokens_per_pack, True)
        parts = [prompts[i : i + 3 * size] for i in range(0, len(prompts), 3 * size)]
        return np.concatenate(
            [scorer.score([p.ids for p in x], [p.label_ids for p in x], origins_of(x)).logprobs for x in parts]
        )

    together = scored(9, 2048)
    for size, tokens_per_pack in ((9, 128), (2, 2048), (1, 300)):
        assert np.abs(scored(size, tokens_per_pack) - together).max() <= COMPANY
    expected, _, _ = naive_scores(ko_tiny, [p.ids for p in prompts[:12]], [p.label_ids for p in prompts[:12]])
    assert np.abs(together[:12] - expected).max() < 1e-4


def test_labels_of_several_tokens_fork_off_their_prompt(random_models):
    contexts, labels = random_grid(seed=5)
    origins = [Origin(i, max(0, len(context) - 7)) for i, context in enumerate(contexts)]
    model = random_models["llama"]
    assert_scores(Scorer(model, 300, True).score(contexts, labels, origins), naive_scores(model, contexts, labels))


def test_a_trunk_that_comes_again_is_not_computed_again(ko_tiny, make_config):
    config = make_config(task={"limit": 6}, grid={"templates": ["lecture_1"], "k": [0, 8], "seeds": [1, 2]})
    one, two = grid_prompts(config)
    scorer = Scorer(ko_tiny, 2048, True)

    def score(prompts):
        return scorer.score([p.ids for p in prompts], [p.label_ids for p in prompts], origins_of(prompts))

    first, again, half = score(one), score(one), score(one[:6])
    trunk = max(p.fork for p in one)
    assert first.tokens_computed - again.tokens_computed == trunk
    assert np.abs(first.logprobs - again.logprobs).max() <= COMPANY
    assert np.abs(first.logprobs[:6] - half.logprobs).max() <= COMPANY
    fresh = Scorer(ko_tiny, 2048, True).score([p.ids for p in two], [p.label_ids for p in two], origins_of(two))
    assert np.abs(score(two).logprobs - fresh.logprobs).max() <= COMPANY
    assert score(one).tokens_computed == first.tokens_computed


def test_a_trunk_too_large_for_its_room_is_computed_again(ko_tiny, make_config):
    (prompts,) = grid_prompts(make_config(task={"limit": 4}, grid={"templates": ["lecture_1"], "k": [8], "seeds": [1]}))
    scorer = Scorer(ko_tiny, 2048, True)
    scorer.trunk.most_bytes = 1000
    counts = {
        scorer.score([p.ids for p in prompts], [p.label_ids for p in prompts], origins_of(prompts)).tokens_computed
        for _ in range(2)
    }
    assert len(counts) == 1


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("policy", "limit", "ks"),
    [
        ("fixed", 10, [0, 1, 4, 16]),
        ("bank", 10, [0, 8]),
        ("per_sample", 6, [0, 8]),
        pytest.param("fixed", 200, [0, 1, 4, 16], marks=SLOW),
        pytest.param("bank", 40, [0, 4, 8], marks=SLOW),
        pytest.param("per_sample", 40, [0, 4, 8], marks=SLOW),
    ],
)
def test_shared_unshared_and_naive_scores_agree_on_reviews(ko_tiny, make_config, policy, limit, ks):
    config = make_config(
        task={"limit": limit},
        grid={"templates": ["lecture_1", "english"], "k": ks, "seeds": [1, 2]},
        demos={"policy": policy, "bank_size": 4},
    )
    seen = {}
    for prompts in grid_prompts(config):
        contexts, labels = [p.ids for p in prompts], [p.label_ids for p in prompts]
        shared = Scorer(ko_tiny, 2048, True).score(contexts, labels)
        unshared = Scorer(ko_tiny, 2048, False).score(contexts, labels)
        new = [i for i, p in enumerate(prompts) if (p.text, p.label_ids) not in seen]
        found = naive_scores(ko_tiny, [contexts[i] for i in new], [labels[i] for i in new])
        seen |= {
            (prompts[i].text, prompts[i].label_ids): row for i, row in zip(new, zip(*found, strict=True), strict=True)
        }
        expected = [np.array(x) for x in zip(*(seen[p.text, p.label_ids] for p in prompts), strict=True)]
        assert_scores(shared, expected)
        assert_scores(unshared, expected)
        assert shared.tokens_computed < unshared.tokens_computed
    assert len({int(row[0].argmax()) for row in seen.values()}) == 2, "the model must not always say the same"


@pytest.mark.parametrize("kind", KINDS)
def test_random_models_score_labels_of_any_length_alike(random_models, kind):
    model = random_models[kind]
    contexts, labels = random_grid(seed=KINDS.index(kind))
    expected = naive_scores(model, contexts, labels)
    assert expected[0].std() > 1, "weights too small: the test could not fail"
    assert_scores(Scorer(model, 512, True).score(contexts, labels), expected)
    assert_scores(Scorer(model, 512, False).score(contexts, labels), expected)


@pytest.mark.parametrize("tokens_per_pack", [1, 50, 200, 10**6])
def test_the_size_of_packs_changes_nothing(random_models, tokens_per_pack):
    contexts, labels = random_grid(seed=9)
    expected = naive_scores(random_models["llama"], contexts, labels)
    for share in (True, False):
        assert_scores(Scorer(random_models["llama"], tokens_per_pack, share).score(contexts, labels), expected)


def test_attention_over_the_trunk_decides_the_scores(random_models):
    """Another demonstration changes log-probabilities by far more than the tolerance."""
    contexts, labels = random_grid(seed=9)
    changed = [[(t + 1) % 4096 if i == 4 else t for i, t in enumerate(c)] for c in contexts]
    scorer = Scorer(random_models["llama"], 512, True)
    moved = np.abs(scorer.score(contexts, labels).logprobs - scorer.score(changed, labels).logprobs).max(1)
    assert (moved[[len(c) > 5 for c in contexts]] > 1e-2).all()


def test_the_order_of_prompts_changes_nothing(random_models):
    contexts, labels = random_grid(seed=10)
    order = random.Random(0).sample(range(len(contexts)), len(contexts))
    for share in (True, False):
        scorer = Scorer(random_models["qwen2"], 300, share)
        straight = scorer.score(contexts, labels)
        shuffled = scorer.score([contexts[i] for i in order], [labels[i] for i in order])
        assert np.abs(straight.logprobs[order] - shuffled.logprobs).max() < 1e-4
        assert np.array_equal(straight.argmax[order], shuffled.argmax)


def test_off_label_mass_counts_a_shared_first_token_once(random_models):
    """Labels 5-6 and 5-7 hold p(5) together; labels 5 and 8 hold p(5) + p(8)."""
    model, context = random_models["gpt_neox"], [1, 2, 3, 4]
    with torch.inference_mode():
        p = torch.softmax(model(torch.tensor([context])).logits[0, -1].double(), -1)
    for share in (True, False):
        scorer = Scorer(model, 512, share)
        together = scorer.score([context], [[[5, 6], [5, 7]]])
        apart = scorer.score([context], [[[5], [8]]])
        assert together.off_label_mass[0] == pytest.approx(1 - float(p[5]), abs=1e-6)
        assert apart.off_label_mass[0] == pytest.approx(1 - float(p[5] + p[8]), abs=1e-6)
        assert apart.argmax[0] == int(p.argmax())


def test_labels_that_share_their_first_token_are_told_apart_by_later_ones(random_models):
    contexts = [[9, 8, 7, i] for i in range(12)]
    labels = [[[5, 6, 7], [5, 7]]] * 12
    scores = Scorer(random_models["qwen3"], 512, True).score(contexts, labels)
    assert (np.abs(scores.logprobs[:, 0] - scores.logprobs[:, 1]) > 1e-3).all()
    assert_scores(scores, naive_scores(random_models["qwen3"], contexts, labels))


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(
    ("contexts", "labels"), [([[1, 2], []], [[[3], [4]]] * 2), ([[1, 2]], [[[3], []]])], ids=["context", "label"]
)
def test_an_empty_context_or_label_is_an_error(random_models, share, contexts, labels):
    with pytest.raises(ValueError, match="a context or a label has no tokens"):
        Scorer(random_models["gpt2"], 512, share).score(contexts, labels)


@pytest.mark.parametrize("share", [True, False])
def test_no_prompts_give_no_scores(random_models, share):
    scores = Scorer(random_models["gpt2"], 512, share).score([], [])
    assert len(scores.logprobs) == 0
    assert scores.tokens_computed == 0


class Forgetful:
    """A scorer's forward function on a machine with memory for so many tokens."""

    def __init__(self, forward, size, room, error):
        self.forward, self.size, self.room, self.error, self.refused = forward, size, room, error, 0

    def __call__(self, work, *rest):
        if self.size(work) > self.room:
            self.refused += 1
            raise self.error
        return self.forward(work, *rest)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 8 GB"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("share", [True, False])
def test_running_out_of_memory_halves_the_packs_and_changes_nothing(random_models, share, error):
    contexts, labels = random_grid(seed=11)
    expected = naive_scores(random_models["llama"], contexts, labels)
    scorer = Scorer(random_models["llama"], 4096, share)
    if share:
        scorer.forward_pack = forgetful = Forgetful(scorer.forward_pack, lambda p: len(p.tokens), 500, error)
    else:
        scorer.forward_batch = forgetful = Forgetful(
            scorer.forward_batch, lambda batch: len(batch) * max(map(len, batch)), 500, error
        )
    assert_scores(scorer.score(contexts, labels), expected)
    # Both halve 4096 -> 2048 -> 1024 -> 512; the last step is needed where a pack holds more than 500.
    assert scorer.tokens_per_pack in (256, 512, 1024)
    assert forgetful.refused >= 1


def test_memory_that_runs_out_half_way_keeps_what_was_computed(random_models):
    """After two packs there is room for 90 tokens only: those two are not computed again."""
    contexts, labels = random_grid(seed=12)
    expected = naive_scores(random_models["gpt_neox"], contexts, labels)
    scorer = Scorer(random_models["gpt_neox"], 200, True)
    forward, done = scorer.forward_pack, []

    def failing(pack, kept, rows):
        if len(done) >= 2 and len(pack.tokens) > 90:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.append((pack.first_path, pack.last_path))
        return forward(pack, kept, rows)

    scorer.forward_pack = failing
    scores = scorer.score(contexts, labels)
    assert_scores(scores, expected)
    assert scorer.tokens_per_pack in (50, 100)
    assert len(done) > 5
    assert [first for first, _ in done[1:]] == [last for _, last in done[:-1]]


@pytest.mark.parametrize("share", [True, False])
def test_memory_for_nothing_at_all_ends_in_the_error(random_models, share):
    contexts, labels = random_grid(seed=13)
    scorer = Scorer(random_models["llama"], 1024, share)
    error = torch.OutOfMemoryError("CUDA out of memory")
    scorer.forward_pack = Forgetful(scorer.forward_pack, lambda p: 1, 0, error)
    scorer.forward_batch = Forgetful(scorer.forward_batch, lambda b: 1, 0, error)
    with pytest.raises(torch.OutOfMemoryError):
        scorer.score(contexts, labels)


def test_packs_are_cut_before_the_model_is_needed_and_again_only_when_their_size_has_changed(
    ko_tiny, make_config, monkeypatch
):
    prompts = next(iter(grid_prompts(make_config(task={"limit": 6}, grid={"k": [0, 4], "seeds": [1]}))))
    contexts, labels = [p.ids for p in prompts], [p.label_ids for p in prompts]
    cuts, make = [], scorer_module.make_packs

    def counted(tree, sequences, size, *more):
        cuts.append((size, *more))
        return make(tree, sequences, size, *more)

    monkeypatch.setattr(scorer_module, "make_packs", counted)
    scorer = Scorer(ko_tiny, 256, True)
    origins = [Origin(p.family, p.trunk) for p in prompts]
    first = scorer.compute(scorer.prepare(contexts, labels, origins))
    assert len(cuts) == 2, "the trunk was not in memory, so the packs were cut anew with it"
    cuts.clear()
    prepared = scorer.prepare(contexts, labels, origins)
    assert cuts == [(256, 1)]
    again = scorer.compute(prepared)
    assert cuts == [(256, 1)]
    scorer.tokens_per_pack //= 2
    halved = scorer.compute(prepared)
    assert [cut[:2] for cut in cuts] == [(256, 1), (128, 1)]
    for scores in (again, halved):
        assert np.abs(scores.logprobs - first.logprobs).max() < 1e-5


@pytest.mark.parametrize("share", [True, False])
def test_it_tells_of_every_prompt_once_while_it_computes(random_models, share):
    contexts, labels = random_grid(seed=13)
    scorer = Scorer(random_models["llama"], 64, share)
    told = []
    scorer.told = told.append
    scorer.score(contexts, labels)
    assert sum(told) == len(contexts)
    assert sum(n > 0 for n in told) > 2


def test_other_errors_are_not_taken_for_lack_of_memory(random_models):
    contexts, labels = random_grid(seed=13)
    scorer = Scorer(random_models["llama"], 1024, True)
    scorer.forward_pack = Forgetful(scorer.forward_pack, lambda p: 1, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        scorer.score(contexts, labels)
    assert scorer.tokens_per_pack == 1024


@pytest.mark.parametrize("kind", KINDS)
def test_models_with_plain_attention_can_share(random_models, kind):
    model = random_models[kind]
    model.set_attn_implementation("sdpa")
    assert sharing_error(model, 2000) is None
    assert model.config._attn_implementation == "sdpa"


SMALL = {"vocab_size": 4096, "hidden_size": 64, "initializer_range": 0.2, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 2048}
OTHERS = {
    "opt": {"vocab_size": 4096, "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "init_std": 0.2, "word_embed_proj_dim": 64},
    "bloom": {"vocab_size": 4096, "hidden_size": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.2,
              "bos_token_id": 1, "eos_token_id": 2},
    "mamba": {**SMALL, "bos_token_id": 0, "eos_token_id": 0},
    "gemma2": {**SMALL, **HEADS, "head_dim": 16, "final_logit_softcapping": 5.0},
    "mistral": {**SMALL, **HEADS, "sliding_window": 64},
    "cohere": {**SMALL, **HEADS, "bos_token_id": 5, "eos_token_id": 6, "logit_scale": 0.0625},
    "granite": {**SMALL, **HEADS, "logits_scaling": 8.0},
}  # fmt: skip
REASONS = {
    "bloom": "attention interface",
    "mamba": "attention interface",
    "gemma2": "changes its logits after the head",
}


def test_opt_can_share(make_model):
    assert sharing_error(make_model("opt", **OTHERS["opt"]), 500) is None


@pytest.mark.parametrize("kind", REASONS)
def test_models_that_cannot_share_say_why(make_model, kind):
    reason = sharing_error(make_model(kind, **OTHERS[kind]), 500)
    assert reason is not None
    assert REASONS[kind] in reason


def test_a_window_that_prompts_fit_but_the_checks_own_trunk_does_not_is_no_obstacle(make_model):
    assert sharing_error(make_model("mistral", **OTHERS["mistral"]), 30) is None


def test_a_window_longer_than_every_prompt_is_no_obstacle(make_model):
    assert sharing_error(make_model("mistral", **{**OTHERS["mistral"], "sliding_window": 1000}), 900) is None


def test_the_check_leaves_the_models_attention_as_it_was(make_model):
    for kind in ("opt", "gemma2"):
        model = make_model(kind, **OTHERS[kind])
        before = model.config._attn_implementation
        sharing_error(model, 500)
        assert model.config._attn_implementation == before


@pytest.mark.parametrize("kind", OTHERS)
def test_models_that_may_not_share_are_scored_as_they_are(make_model, kind):
    """Whatever a model does to its logits (scaling, soft caps) belongs to its probabilities."""
    model = make_model(kind, **OTHERS[kind])
    contexts, labels = random_grid(seed=20, n_queries=2)
    assert_scores(Scorer(model, 512, False).score(contexts, labels), naive_scores(model, contexts, labels))


def check_little_is_computed_twice(prompts, scored_tokens=None):
    contexts = [p.ids for p in prompts]
    assert all(len(label) == 1 for p in prompts for label in p.label_ids)
    unique = count_unique_tokens(contexts)
    computed = build_tree(contexts).n_tokens if scored_tokens is None else scored_tokens
    assert unique <= computed <= 1.05 * unique
    assert sum(map(len, contexts)) > 6 * computed, "sharing must pay"


ALL_K = [0, 1, 2, 4, 8, 16, 32]


def test_nearly_every_unique_token_is_computed_once(ko_tiny, make_config):
    config = make_config(task={"limit": 200}, grid={"templates": ["lecture_1", "lecture_2"], "k": ALL_K, "seeds": [1]})
    lecture_1, lecture_2 = grid_prompts(config)
    scores = Scorer(ko_tiny, 2048, True).score([p.ids for p in lecture_1], [p.label_ids for p in lecture_1])
    assert scores.tokens_computed == build_tree([p.ids for p in lecture_1]).n_tokens
    check_little_is_computed_twice(lecture_1, scores.tokens_computed)
    check_little_is_computed_twice(lecture_2)


@pytest.mark.slow
def test_nearly_every_unique_token_of_real_reviews_is_computed_once(shared_nsmc, make_config):
    config = make_config(
        task={"limit": 200, "data_dir": str(shared_nsmc)},
        grid={"templates": ["lecture_1", "lecture_2"], "k": ALL_K, "seeds": [1, 2]},
    )
    for prompts in grid_prompts(config):
        check_little_is_computed_twice(prompts)


@pytest.mark.parametrize("share", [True, False])
def test_prompts_are_prepared_without_the_model_and_its_device(random_models, share):
    contexts, labels = random_grid(seed=71)
    scorer = Scorer(random_models["llama"], 512, share)
    expected = scorer.score(contexts, labels)
    model, scorer.model, device, scorer.device = scorer.model, None, scorer.device, None
    prepared = scorer.prepare(contexts, labels)
    scorer.model, scorer.device = model, device
    found = scorer.compute(prepared)
    assert np.array_equal(found.logprobs, expected.logprobs)
    assert found.tokens_computed == expected.tokens_computed
