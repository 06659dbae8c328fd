"""On a real GPU: memory, long trunks, lack of memory, 16 bits, kernels against plain float32 operations.

The longest come first: processes that take one test at a time then end together.
"""

import gc
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch

from harness.engine.local.attention.cascade import CascadeKernel, why_not_flash
from harness.engine.local.attention.choice import PARTS, AttentionShape, choose_kernel
from harness.engine.local.attention.flex import FlexKernel, why_not_flex
from harness.engine.local.loading import ModelSpec
from harness.engine.local.memory import PackLoad, predict, shape_of_config
from harness.engine.local.opening import load_engine
from harness.engine.local.parity import sharing_error
from harness.engine.local.scorer import Scorer
from tests.conftest import KO_TINY
from tests.models import random_model
from tests.scoring import assert_scores, naive_scores, random_grid

pytestmark = pytest.mark.gpu


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU is visible")
    # Compiled layers and their model hold each other: what an earlier test loaded goes only now.
    gc.unfreeze()
    gc.collect()
    torch.cuda.empty_cache()
    return torch.device("cuda:0")


def on_gpu(kernel, gpu, dtype, size, tokens_per_pack):
    """A kernel, or a skip where this GPU lacks what it needs."""
    reason = {"cascade": why_not_flash(gpu, dtype, size), "flex": why_not_flex(gpu), "parts": None}[kernel]
    if reason is not None:
        pytest.skip(f"{kernel}: {reason}")
    return {"cascade": CascadeKernel, "parts": lambda: PARTS, "flex": lambda: FlexKernel(tokens_per_pack)}[kernel]()


def long_grid(n, trunk=6000):
    """Prompts that branch off a trunk of thousands of tokens at four depths."""
    rng = random.Random(5)
    stem = [rng.randrange(4096) for _ in range(trunk)]
    contexts = [
        stem[: trunk * quarter // 4] + [rng.randrange(4096) for _ in range(rng.randrange(5, 40))]
        for quarter in range(5)
        for _ in range(n)
    ]
    return contexts, [[[3], [4, 5]]] * len(contexts)


def need_and_peak(folder, dtype, tokens_per_pack):
    """Predicted memory of a model, the kernel, and torch's peak, in a process that holds nothing else."""
    contexts, labels = long_grid(400, trunk=1500)
    before = torch.cuda.memory_allocated()
    scorer, facts = load_engine(ModelSpec(folder, dtype=dtype, device="cuda"), True, tokens_per_pack, 1540, None)
    torch.cuda.reset_peak_memory_stats()
    unique = scorer.score(contexts, labels).tokens_computed
    measured = torch.cuda.max_memory_allocated() - before
    shape = shape_of_config(scorer.model.config, sum(p.numel() for p in scorer.model.parameters()))
    load = PackLoad(tokens_per_pack, 1540, unique, 0, 2 * len(contexts) / unique)
    return predict(shape, dtype, "cuda", True, load, facts.attention), facts.attention, measured


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("tokens_per_pack", [2048, 8192])
def test_the_predicted_memory_is_within_15_percent_of_what_torch_allocates(gpu, tmp_path, dtype, tokens_per_pack):
    """Without the context of CUDA, which torch does not count."""
    settings = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 12, "num_attention_heads": 16}
    folder = tmp_path / "model"
    random_model("gpt_neox", 0, gpu, **settings, vocab_size=32000).save_pretrained(folder)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        need, kernel, measured = alone.submit(need_and_peak, str(folder), dtype, tokens_per_pack).result()
    assert need.total - need.host == pytest.approx(measured, rel=0.15), (kernel, need)


@pytest.mark.parametrize("kernel", ["cascade", "flex", "parts"])
def test_a_trunk_of_thousands_of_tokens_scores_as_prompts_by_themselves(gpu, kernel):
    dtype = torch.bfloat16 if kernel == "cascade" else torch.float32
    made = on_gpu(kernel, gpu, dtype, 64, 2048)
    settings = {
        "num_attention_heads": 4,
        "hidden_size": 256,
        "max_position_embeddings": 8192,
        "initializer_range": 0.05,
    }
    model = random_model("llama", 0, gpu, dtype, **{**settings, "num_key_value_heads": 2})
    contexts, labels = long_grid(8)
    shared = Scorer(model, 2048, True, made).score(contexts, labels)
    alone = Scorer(model, 8192, False).score(contexts, labels)
    assert shared.tokens_computed < alone.tokens_computed / 4
    allowed = 1e-3 if dtype == torch.float32 else 0.2
    assert np.abs(shared.logprobs - alone.logprobs).max() < allowed


@pytest.mark.parametrize("kind", ["gpt_neox", "llama", "qwen3"])
def test_float32_scores_on_a_gpu_are_those_of_a_naive_loop_on_a_cpu(gpu, kind):
    model = random_model(kind)
    contexts, labels = random_grid(seed=61)
    expected = naive_scores(model, contexts, labels)
    kernel = on_gpu("flex", gpu, torch.float32, 16, 512)
    model = model.to(gpu)
    assert sharing_error(model, 500, kernel) is None
    assert_scores(Scorer(model, 512, True, kernel).score(contexts, labels), expected, tolerance=1e-3)


def test_bfloat16_decides_as_float32_but_for_near_ties(gpu):
    contexts, labels = random_grid(seed=62, n_queries=40)
    scores = {}
    for dtype in ("float32", "bfloat16"):
        spec = ModelSpec(str(KO_TINY), dtype=dtype, device="cuda")
        scorer, facts = load_engine(spec, True, None, 500, None)
        assert facts.shares_prefixes, facts.sharing_notice
        scores[dtype] = scorer.score(contexts, labels).logprobs
    apart = np.abs(scores["bfloat16"] - scores["float32"]).max()
    margins = np.abs(scores["float32"][:, 0] - scores["float32"][:, 1])
    flipped = scores["bfloat16"].argmax(1) != scores["float32"].argmax(1)
    assert (margins[flipped] <= 2 * apart).all()
    assert apart < 1


def test_a_pack_that_does_not_fit_is_halved(gpu):
    """The allocator is held to what is in use and 200 MB: a pack of 2^17 tokens cannot fit."""
    model = random_model("llama", 0, gpu, hidden_size=256, intermediate_size=4096)
    contexts, labels = random_grid(seed=63, n_queries=1200)
    whole = Scorer(model, 4096, True).score(contexts, labels)
    total = torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(gpu) + 200 * 2**20) / total, gpu)
    try:
        scorer = Scorer(model, 2**17, True)
        scores = scorer.score(contexts, labels)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu)
    assert scorer.tokens_per_pack < 2**17
    assert np.abs(scores.logprobs - whole.logprobs).max() < 1e-3


def test_nothing_waits_for_the_gpu_between_packs(gpu):
    """torch raises on every synchronisation but the one at the end."""
    model = random_model("llama", 0, gpu)
    contexts, labels = random_grid(seed=64)
    scorer = Scorer(model, 256, True)
    expected = scorer.score(contexts, labels)
    finishes = []

    class Watching(type(scorer)):
        def _shared(self, *args):
            torch.cuda.set_sync_debug_mode("error")
            try:
                return super()._shared(*args)
            finally:
                finishes.append(True)
                torch.cuda.set_sync_debug_mode("default")

    scores = Watching(model, 256, True).score(contexts, labels)
    assert finishes
    assert np.abs(scores.logprobs - expected.logprobs).max() < 1e-5


@pytest.mark.parametrize("kernel", ["cascade", "flex", "parts"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(8, 8, 64), (8, 2, 80), (4, 4, 96), (8, 2, 128), (4, 4, 256)])
def test_every_kernel_passes_the_check_of_its_numbers(gpu, kernel, dtype, heads, kv_heads, size):
    made = on_gpu(kernel, gpu, dtype, size, 4096)
    choice = choose_kernel(AttentionShape(heads, kv_heads, size, dtype), 4096, 2000, gpu, [made])
    assert made.name in choice.seconds, choice.remarks
