"""Where a grid is done sooner than a compiler, a GPU compiles nothing, and says so."""

from types import SimpleNamespace

import pytest
import torch

from harness.engine.local import opening
from harness.engine.local.attention.cascade import CascadeKernel
from harness.engine.local.attention.choice import PARTS, choose_kernel
from harness.engine.local.attention.flex import FlexKernel
from harness.engine.local.layers.compiled import CompiledLayers
from harness.engine.local.loading import ModelSpec
from harness.running import worker
from harness.running.driver import run
from tests.conftest import KO_TINY


def on(device, weights):
    """What is asked of a model."""
    weight = torch.empty(weights, device="meta")
    return SimpleNamespace(
        get_input_embeddings=lambda: SimpleNamespace(weight=SimpleNamespace(device=torch.device(device))),
        parameters=lambda: iter([weight]),
    )


@pytest.mark.parametrize(
    ("device", "weights", "tokens", "too_little"),
    [
        ("cuda", 2 * 10**6, 250_000, True),
        ("cuda", 1_300_000_000, 100_000, True),
        ("cuda", 1_300_000_000, 1_000_000, False),
        ("cuda", 2 * 10**6, None, False),
        ("cpu", 2 * 10**6, 250_000, False),
    ],
)
def test_compiling_is_for_more_work_than_it_takes(device, weights, tokens, too_little):
    reason = opening._too_little_to_compile(on(device, weights), tokens)
    assert (reason is not None) == too_little
    assert reason is None or f"all {tokens:,} tokens" in reason


@pytest.mark.parametrize("reason", ["too little", None])
def test_a_small_grid_compiles_neither_layers_nor_attention(monkeypatch, reason):
    offered, compiled = [], []

    def chosen(shape, size, longest, device, kernels=None):
        offered.append(kernels)
        return choose_kernel(shape, size, longest, device)

    monkeypatch.setattr(opening, "_too_little_to_compile", lambda model, tokens: reason)
    monkeypatch.setattr(opening, "candidates", lambda *_: ([CascadeKernel(), FlexKernel(256), PARTS], {}))
    monkeypatch.setattr(opening, "choose_kernel", chosen)
    monkeypatch.setattr(opening, "_compile", lambda *_: compiled.append(True) or CompiledLayers(2))
    _, facts = opening.load_engine(ModelSpec(str(KO_TINY), device="cpu"), True, 256, 100, None, 1000)
    assert facts.shares_prefixes
    if reason is None:
        assert (offered, compiled, facts.compiled_layers, facts.compile_notice) == ([None], [True], 2, None)
    else:
        assert [[kernel.name for kernel in kernels] for kernels in offered] == [["cascade", "parts"]]
        assert (compiled, facts.compiled_layers, facts.compile_notice) == ([], 0, reason)


def test_a_run_tells_its_engine_how_many_tokens_it_has(monkeypatch, make_config, tmp_path):
    told = []
    settings = worker.open_settings

    def watched(*arguments, **named):
        told.append(settings(*arguments, **named))
        return told[-1]

    monkeypatch.setattr(worker, "open_settings", watched)
    grid = {"templates": ["lecture_1"], "k": [0, 1], "seeds": [1]}
    run(make_config(name="small", out=str(tmp_path), grid=grid, task={"limit": 3}))
    assert len(told) == 1
    assert told[0].longest_prompt < told[0].tokens < 6 * told[0].longest_prompt
