"""Packed weights give torch's products, the same bits for any number of rows and threads in float32."""

import copy
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.pytorch_utils import Conv1D

from harness.engine.local import opening as factory
from harness.engine.local.layers import packed_weights
from harness.engine.local.layers.packed_weights import (
    CACHES,
    PackedLinear,
    PackingError,
    bound_compiled_products,
    pack_weights,
)
from harness.engine.local.loading import ModelSpec
from harness.engine.local.opening import load_engine
from harness.engine.local.scorer import Scorer
from tests.scoring import assert_scores, naive_scores, random_grid
from tests.test_scorer import KINDS, OTHERS

SHAPES = [(64, 192), (256, 1024), (512, 512), (2048, 512), (100, 300)]
BFLOAT16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="the processor has no bfloat16 products"
)


def random_map(n_in, n_out, dtype=torch.float32, bias=True):
    generator = torch.Generator().manual_seed(n_in)
    layer = torch.nn.Linear(n_in, n_out, bias=bias, dtype=dtype)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / n_in**0.5)
    return layer


def as_loaded(model):
    """A copy with transformers' own attention, which earlier tests may have changed."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("sdpa")
    return model


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("n_in", "n_out"), SHAPES)
def test_products_are_those_of_float64(n_in, n_out, bias):
    layer = random_map(n_in, n_out, bias=bias)
    packed = PackedLinear(layer.weight, layer.bias)
    rows = torch.randn(2, 33, n_in)
    expected = copy.deepcopy(layer).double()(rows.double())
    assert (packed(rows) - expected).abs().max() < 1e-5
    assert (packed.in_features, packed.out_features) == (n_in, n_out)


@torch.inference_mode()
@pytest.mark.parametrize(("n_in", "n_out"), SHAPES)
def test_bits_do_not_depend_on_rows_or_threads(n_in, n_out):
    layer = random_map(n_in, n_out)
    packed = PackedLinear(layer.weight, layer.bias)
    rows = torch.randn(1, 2048, n_in)
    threads = torch.get_num_threads()
    try:
        found = []
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            found += [packed(rows[:, :n])[:, :16] for n in (16, 32, 40, 129, 1000, 2048)]
            assert torch.equal(packed(rows)[:, 777:900], packed(rows[:, 777:900].contiguous()))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(x, found[0]) for x in found)


@BFLOAT16
@torch.inference_mode()
def test_bfloat16_products_are_those_of_torch_within_their_steps():
    layer = random_map(512, 512, torch.bfloat16)
    packed = PackedLinear(layer.weight, layer.bias)
    rows = torch.randn(64, 512, dtype=torch.bfloat16)
    found, expected = packed(rows).float(), layer.float()(rows.float())
    assert (found - expected).abs().max() < 0.01 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_model_scores_as_before(random_models, kind):
    contexts, labels = random_grid(seed=41)
    model = as_loaded(random_models[kind])
    n_layers, per_layer = model.config.num_hidden_layers, {"gpt_neox": 4, "gpt2": 4}.get(kind, 7)
    assert pack_weights(model) == n_layers * per_layer
    assert sum(isinstance(m, PackedLinear) for m in model.modules()) == n_layers * per_layer
    expected = naive_scores(random_models[kind], contexts, labels)
    for share in (True, False):
        assert_scores(Scorer(model, 300, share).score(contexts, labels), expected)
    head = model.get_output_embeddings()
    assert type(head) is torch.nn.Linear, "the head is multiplied in higher precision"


def test_a_packed_model_generates_as_before(random_models):
    model = as_loaded(random_models["llama"])
    pack_weights(model)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = as_loaded(random_models["llama"]).generate(ids, attention_mask=torch.ones_like(ids), **settings)
    assert torch.equal(model.generate(ids, attention_mask=torch.ones_like(ids), **settings), expected)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_models_give_the_same_logits(make_model, kind):
    """Mamba reads a weight besides calling maps; that one stays as it is."""
    model = make_model(kind, **OTHERS[kind])
    ids = torch.arange(3, 40)[None]
    expected = model(ids).logits
    assert pack_weights(model) > 0
    assert torch.allclose(model(ids).logits, expected, atol=1e-4, rtol=1e-4)


class Backbone(torch.nn.Module):
    """What `pack_weights` reads of a model: an embedding, and maps that are called one after another."""

    dtype = torch.float32

    def __init__(self, **maps):
        super().__init__()
        self.embedding = torch.nn.Embedding(20, 8)
        self.maps = list(maps)
        for name, module in maps.items():
            setattr(self, name, module)

    @property
    def base_model(self):
        return self

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, use_cache):
        rows = self.embedding(input_ids)
        for name in self.maps:
            module = getattr(self, name)
            rows = module(rows.to(next(module.parameters()).dtype)[..., :8])
        return SimpleNamespace(last_hidden_state=rows)


def test_maps_of_gpt2_are_packed():
    conv = Conv1D(24, 8)
    model = Backbone(map=conv)
    rows = torch.randn(1, 40, 8)
    expected = conv(rows)
    assert pack_weights(model) == 1
    assert torch.allclose(model.map(rows), expected, atol=1e-6)


def test_weights_that_two_maps_share_stay():
    one, two = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
    two.weight = one.weight
    model = Backbone(one=one, two=two, three=torch.nn.Linear(8, 8))
    assert pack_weights(model) == 1
    assert (model.one, model.two) == (one, two)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_formats_stay(dtype):
    assert pack_weights(Backbone(map=torch.nn.Linear(8, 8, dtype=dtype))) == 0


def test_large_float32_weights_stay(monkeypatch):
    monkeypatch.setattr(packed_weights, "MOST_FLOAT32", 64)
    model = Backbone(small=torch.nn.Linear(8, 8), large=torch.nn.Linear(8, 9))
    assert pack_weights(model) == 1
    assert (type(model.small), type(model.large)) == (PackedLinear, torch.nn.Linear)


def test_a_float32_map_in_a_model_of_another_format_is_packed():
    """Some models keep a few maps in float32."""
    model = Backbone(one=torch.nn.Linear(8, 8, dtype=torch.float16), two=torch.nn.Linear(8, 8))
    model.dtype = torch.float16
    assert pack_weights(model) == 1
    assert (type(model.one), type(model.two)) == (torch.nn.Linear, PackedLinear)


def test_a_build_without_such_products_leaves_the_model(monkeypatch):
    def fail(*args):
        raise RuntimeError("bf16 path needs the cpu support")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", fail)
    model = Backbone(map=torch.nn.Linear(8, 8))
    assert pack_weights(model) == 0
    assert type(model.map) is torch.nn.Linear


def test_a_map_that_is_never_called_stays():
    model = Backbone(map=torch.nn.Linear(8, 8))
    model.other = torch.nn.Linear(8, 8)
    assert pack_weights(model) == 1
    assert type(model.other) is torch.nn.Linear


def test_a_model_that_does_not_run_by_itself_stays():
    class Stubborn(Backbone):
        def forward(self, input_ids, use_cache):
            raise RuntimeError("no")

    assert pack_weights(Stubborn(map=torch.nn.Linear(8, 8))) == 0


class Reader(Backbone):
    """Calls a map and reads its weights besides."""

    def forward(self, input_ids, use_cache):
        found = super().forward(input_ids, use_cache)
        return SimpleNamespace(last_hidden_state=found.last_hidden_state @ self.map.weight)


def test_a_model_that_reads_packed_weights_is_found_out():
    with pytest.raises(PackingError):
        pack_weights(Reader(map=torch.nn.Linear(8, 8)))


def test_a_model_that_does_not_bear_packing_is_loaded_anew(model_folders, monkeypatch):
    def refuse(model):
        model.base_model.layers = None
        raise PackingError

    spec = ModelSpec(str(model_folders["llama"]), dtype="float32", device="cpu")
    _, packed = load_engine(spec, True, 256, 500, None)
    assert packed.packed_weights == 7 * 3
    monkeypatch.setattr(factory, "pack_weights", refuse)
    scorer, facts = load_engine(spec, True, 256, 500, None)
    assert (facts.packed_weights, facts.shares_prefixes) == (0, True)
    contexts, labels = random_grid(seed=43)
    assert_scores(scorer.score(contexts, labels), naive_scores(scorer.model, contexts, labels))


def test_products_that_differ_are_not_used(monkeypatch):
    original = PackedLinear.product
    monkeypatch.setattr(PackedLinear, "product", lambda self, rows, bias: original(self, rows, bias) + 0.01)
    assert pack_weights(Backbone(map=torch.nn.Linear(8, 8))) == 0


def test_weights_that_others_still_read_are_whole_after_packing(tmp_path):
    """Their pages may have been taken back; they come again."""
    from safetensors.torch import load_file, save_file

    size = 1 << 10
    save_file({"weight": torch.arange(size * size, dtype=torch.float32).view(size, size)}, tmp_path / "w.safetensors")
    weight = load_file(tmp_path / "w.safetensors")["weight"]
    layer = torch.nn.Linear(size, size, bias=False)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    other = weight[5:7]
    mapped = packed_weights.mapped_files()
    assert any(weight.data_ptr() in place for place in mapped)
    unmapped = torch.randn(size, size).data_ptr()
    assert not any(unmapped in place for place in mapped)
    packed_weights.page_out(layer.weight, mapped)
    assert np.array_equal(other.numpy(), np.arange(5 * size, 7 * size, dtype=np.float32).reshape(2, size))


def test_few_compiled_products_are_kept(monkeypatch):
    monkeypatch.setenv(CACHES[0], "7")
    monkeypatch.delenv(CACHES[1], raising=False)
    bound_compiled_products()
    assert [os.environ[name] for name in CACHES] == ["7", "128"]


GROWTH = """
import resource, torch
from harness.engine.local.layers.packed_weights import PackedLinear, bound_compiled_products
bound_compiled_products()
with torch.inference_mode():
    packed = PackedLinear(torch.randn(1024, 256), None)
    peaks = []
    for rows in (200, 600):
        for n in range(32, 32 + rows):
            packed(torch.randn(n, 256))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[1] - peaks[0])
"""


def test_memory_does_not_grow_with_the_numbers_of_rows():
    """400 more numbers of rows took 113 MiB per 200 with torch's defaults."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40
