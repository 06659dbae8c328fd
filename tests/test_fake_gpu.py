"""The GPU path without a GPU: dtypes, devices and shapes of every kernel, and where the host would wait.

What fake tensors cannot show, numbers and speed, is left to `make test-gpu` and `make gpu-check`.
"""

import random

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from harness.engine.local.attention.cascade import CascadeKernel, flash_varlen, why_not_flash
from harness.engine.local.attention.choice import PARTS, shape_of
from harness.engine.local.attention.flex import BLOCK, FlexKernel
from harness.engine.local.attention.tree_attention import NAME
from harness.engine.local.generator import Generator
from harness.engine.local.layers.modules import layers_of
from harness.engine.local.memory import PackLoad, predict, shape_of_config
from harness.engine.local.tree.tree import Origin
from tests.fake_gpu import (
    GPU,
    HostWaits,
    Memory,
    fake_model,
    fake_scorer,
    found_parts,
    pretended_gpu,
    split_over_two_gpus,
)
from tests.scoring import random_grid

MODELS = {
    "gpt_neox 64": ("gpt_neox", {"hidden_size": 256, "rotary_pct": 0.5, "num_hidden_layers": 2}),
    "gpt_neox 80": ("gpt_neox", {"hidden_size": 320, "rotary_pct": 0.5, "num_hidden_layers": 2}),
    "gpt_neox 128": ("gpt_neox", {"hidden_size": 512, "num_hidden_layers": 2}),
    "gpt_neox 256": ("gpt_neox", {"hidden_size": 1024, "num_hidden_layers": 2}),
    "llama 128 on 2": ("llama", {"hidden_size": 512, "head_dim": 128, "num_hidden_layers": 2}),
    "qwen3": ("qwen3", {"head_dim": 64}),
    "gpt2": ("gpt2", {}),
}
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
FLOAT16 = "gpt_neox 64"
"""The model that the default suite tries in float16 too, which goes the ways of bfloat16."""
MODELS_IN_DTYPES = [
    pytest.param(name, dtype, marks=[pytest.mark.slow] * (dtype == torch.float16 and name != FLOAT16))
    for name in MODELS
    for dtype in DTYPES
]


def flex_attention(query, key, value, block_mask, scale, enable_gqa):
    """What compiled FlexAttention asks of its inputs; `test_cross_compile` makes the kernel itself."""
    assert query.dtype == key.dtype == value.dtype
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert query.shape[2] % BLOCK == key.shape[2] % BLOCK == 0
    assert block_mask.seq_lengths == (query.shape[2], key.shape[2])
    parts = (block_mask.kv_num_blocks, block_mask.kv_indices, block_mask.full_kv_num_blocks, block_mask.full_kv_indices)
    assert {x.device for x in (query, key, value, *parts)} == {query.device}
    assert {x.dtype for x in parts} == {torch.int32}
    return query.new_empty(*query.shape[:3], value.shape[3])


def flex_kernel():
    kernel = FlexKernel(PACK, compiled=False)
    kernel.function = flex_attention
    return kernel


KERNELS = {
    "parts": lambda: PARTS,
    "cascade": CascadeKernel,
    "flex": flex_kernel,
}
PACK = 128


@pytest.fixture(scope="module")
def parts():
    return {name: found_parts(kind, **settings) for name, (kind, settings) in MODELS.items()}


@pytest.fixture
def grid():
    """A few prompts on a trunk of more than a pack, labels of one token and of several."""
    contexts, labels = random_grid(seed=64, n_queries=1)
    return contexts[:5], labels[:5]


def origins_of(contexts):
    """Every prompt by itself a family, whose trunk is all but its last few tokens."""
    return [Origin(i, max(0, len(context) - 9)) for i, context in enumerate(contexts)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("name", "dtype"), MODELS_IN_DTYPES)
def test_packs_are_scored_without_a_wait(monkeypatch, parts, grid, name, kernel, dtype):
    kind, settings = MODELS[name]
    contexts, labels = grid
    with pretended_gpu(monkeypatch):
        model = fake_model(kind, dtype, **settings)
        shape = shape_of(model)
        if kernel == "cascade" and dtype == torch.float32:
            assert why_not_flash(GPU, dtype, shape.head_size) == "it takes 16 bits only"
            return
        scorer = fake_scorer(monkeypatch, model, parts[name], PACK, KERNELS[kernel]())
        packs = []
        straight = scorer.forward_pack

        def watched(pack, kept, rows):
            hidden, keep = straight(pack, kept, rows)
            packs.append(pack)
            assert isinstance(hidden, FakeTensor)
            assert (hidden.dtype, hidden.device) == (dtype, GPU)
            assert hidden.shape == (len(pack.tokens), model.config.hidden_size)
            for layer in keep.values():
                assert {x.dtype for pair in layer.values() for x in pair} <= {dtype}
            return hidden, keep

        scorer.forward_pack = watched
        scorer.score(contexts, labels, origins_of(contexts) if name == "gpt_neox 64" else None)
    assert len(packs) > 1
    assert any(len(pack.keep) > 0 for pack in packs)


@pytest.mark.parametrize(("name", "dtype"), MODELS_IN_DTYPES)
def test_a_decoding_step_waits_once(monkeypatch, parts, grid, name, dtype):
    kind, settings = MODELS[name]
    contexts = grid[0]
    asked = []

    def tolist(tensor):
        """What the device would answer; every other sequence ends early."""
        asked.append(tuple(tensor.shape))
        return [8 + i % 2 for i in range(len(tensor))]

    with pretended_gpu(monkeypatch):
        model = fake_model(kind, dtype, **settings)
        kernel = PARTS if dtype == torch.float32 else CascadeKernel()
        generator = Generator(fake_scorer(monkeypatch, model, parts[name], PACK, kernel))
        assert (generator.varlen is flash_varlen) == (dtype != torch.float32)
        assert (generator.record is None) == (dtype == torch.float32)
        generator.record = None
        monkeypatch.setattr(FakeTensor, "tolist", tolist)
        found = generator.generate(contexts, 9, lambda generated: generated.count(8) == 2)
    assert asked[0] == (len(contexts),)
    assert len({len(tokens) for tokens in found.tokens}) > 1
    assert len(asked) == max(len(tokens) for tokens in found.tokens)
    assert len(set(asked)) > 1, "finished sequences were never dropped"


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("head_on_second", [False, True])
def test_layers_may_lie_on_two_gpus(monkeypatch, parts, grid, kernel, head_on_second):
    kind, settings = MODELS["llama 128 on 2"]
    contexts, labels = grid
    with pretended_gpu(monkeypatch):
        model = fake_model(kind, torch.bfloat16, **settings)
        split_over_two_gpus(model, layers_of(model), [model.model.norm, *[model.lm_head] * head_on_second])
        scorer = fake_scorer(monkeypatch, model, parts["llama 128 on 2"], PACK, KERNELS[kernel]())
        scorer.score(contexts, labels)
        generator = Generator(scorer)
        generator.record = None
        monkeypatch.setattr(FakeTensor, "tolist", lambda tensor: [7] * len(tensor))
        found = generator.generate(contexts, 4, lambda generated: False)
    assert [len(tokens) for tokens in found.tokens] == [4] * len(contexts)


LARGE = {
    "gpt_neox": {"intermediate_size": 8192},
    "llama": {"intermediate_size": 5632, "num_key_value_heads": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize("tokens_per_pack", [8192, 16384])
@pytest.mark.parametrize("kind", LARGE)
def test_the_predicted_memory_is_within_15_percent_of_the_tensors_that_live(monkeypatch, kind, tokens_per_pack):
    """By the cascade in bfloat16; a real GPU adds the allocator's rounding."""
    settings = {**LARGE[kind], "num_hidden_layers": 12, "num_attention_heads": 16, "vocab_size": 32000}
    narrow = found_parts(kind, **{**settings, "hidden_size": 256, "intermediate_size": 256})
    rng = random.Random(5)
    stem = [rng.randrange(4096) for _ in range(1500)]
    contexts = [
        stem[: 375 * depth] + [rng.randrange(4096) for _ in range(26)] for depth in range(5) for _ in range(400)
    ]
    with pretended_gpu(monkeypatch):
        model = fake_model(kind, torch.bfloat16, **settings, hidden_size=2048)
        modules = dict(model.named_modules())
        by_token = {name: getattr(modules[name], "out_features", 2048) for name in narrow[0]}
        scorer = fake_scorer(monkeypatch, model, (by_token, narrow[1]), tokens_per_pack, CascadeKernel())
        with Memory([*model.parameters(), *model.buffers()]) as memory:
            computed = scorer.score(contexts, [[[3], [4, 5]]] * len(contexts), origins_of(contexts)).tokens_computed
    shape = shape_of_config(model.config, sum(p.numel() for p in model.parameters()))
    load = PackLoad(tokens_per_pack, 1526, computed, 0, 2 * len(contexts) / computed)
    need = predict(shape, "bfloat16", "cuda", True, load)
    assert need.total - need.host == pytest.approx(memory.most, rel=0.15), need


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.sum().item(),
        lambda x: x.max().tolist(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: torch.ones(3).to(GPU),
    ],
)
def test_the_watch_sees_every_kind_of_wait(monkeypatch, ask):
    with pretended_gpu(monkeypatch), pytest.raises(HostWaits):
        ask(torch.zeros(4, device=GPU))


def test_the_mask_of_transformers_is_never_made(random_models):
    """It would ask the device whether positions begin anew."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    assert NAME not in ALL_MASK_ATTENTION_FUNCTIONS
