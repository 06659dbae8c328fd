"""Compiled middle layers: the same scores, nothing compiled again after the warm-up, off where it fails."""

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from harness.engine.local.attention.cascade import CascadeKernel, reference_varlen
from harness.engine.local.generator import Generator
from harness.engine.local.layers import compiled as module
from harness.engine.local.layers.compiled import compile_middle_layers
from harness.engine.local.layers.modules import layers_of
from harness.engine.local.parity import sharing_error
from harness.engine.local.scorer import Scorer
from tests.scoring import assert_scores, naive_scores, random_grid
from tests.test_generator import never, one_by_one

KERNEL = CascadeKernel(reference_varlen)


@pytest.fixture(autouse=True)
def fresh_counters():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compiled(model, backend):
    return compile_middle_layers(model, lambda found: sharing_error(model, 500, KERNEL, found), backend)


def check_scores(make_model, kind, backend):
    model = make_model(kind, num_hidden_layers=5)
    grids = [random_grid(seed=seed, n_queries=1 + seed % 4) for seed in (51, 52, 53)]
    expected = [naive_scores(model, *grid) for grid in grids]
    found = compiled(model, backend)
    assert (found.layers, found.notice) == (3, None)
    assert found.seconds > 0
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    for tokens_per_pack in (300, 170, 64):
        scorer = Scorer(model, tokens_per_pack, True, KERNEL, found)
        for grid, scores in zip(grids, expected, strict=True):
            assert_scores(scorer.score(*grid), scores)
    assert counters["stats"]["unique_graphs"] == graphs, "packs of another size were compiled anew"
    return scorer, grids


@pytest.mark.parametrize(
    "kind", ["gpt_neox", "llama", *(pytest.param(k, marks=pytest.mark.slow) for k in ("qwen3", "gpt2"))]
)
def test_packs_of_every_size_use_what_the_warm_up_compiled(make_model, kind):
    scorer, grids = check_scores(make_model, kind, "eager")
    contexts = grids[0][0][:4]
    graphs = counters["stats"]["unique_graphs"]
    assert Generator(scorer).generate(contexts, 5, never).tokens == one_by_one(scorer.model, contexts, 5)
    assert counters["stats"]["unique_graphs"] == graphs, "decoding steps and the library's own way stay uncompiled"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt_neox", "llama"])
def test_scores_of_compiled_code_are_those_of_the_naive_loop(make_model, kind):
    if not shutil.which("g++"):
        pytest.skip("compiling for a CPU needs g++")
    check_scores(make_model, kind, "inductor")


def test_layers_stay_as_they_are_where_compiling_fails(make_model):
    model = make_model("llama", num_hidden_layers=4)
    before = [layer.forward for layer in layers_of(model)]

    def refuse(graph, inputs):
        raise RuntimeError("no such GPU")

    found = compile_middle_layers(model, lambda found: sharing_error(model, 500, KERNEL, found), refuse)
    assert found.layers == 0
    assert "no such GPU" in found.notice
    assert [layer.forward for layer in layers_of(model)] == before


def test_layers_stay_as_they_are_where_compiled_scores_differ(make_model):
    def spoil(graph, inputs):
        def spoiled(*args):
            return [x * 1.5 if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in graph(*args)]

        return spoiled

    model = make_model("llama", num_hidden_layers=4)
    found = compile_middle_layers(model, lambda found: sharing_error(model, 500, KERNEL, found), spoil)
    assert found.layers == 0
    assert "packed and plain logits differ" in found.notice
    assert sharing_error(model, 500, KERNEL) is None


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: unknown")])
def test_errors_of_the_device_are_raised(make_model, error):
    def fail(found):
        raise error

    with pytest.raises(type(error)):
        compile_middle_layers(make_model("llama", num_hidden_layers=4), fail)


def test_too_few_layers_are_told(make_model):
    found = compile_middle_layers(make_model("llama", num_hidden_layers=2), lambda found: None)
    assert found == module.CompiledLayers(notice="it has too few layers", seconds=found.seconds)
