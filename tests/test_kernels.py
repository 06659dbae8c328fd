"""Attention kernels for GPUs, checked on CPU: same tree, same outputs, whatever computes them."""

import random
import shutil

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.engine.local import memory
from harness.engine.local.attention import choice as kernels
from harness.engine.local.attention import tree_attention as attention
from harness.engine.local.attention.cascade import CascadeKernel, make_levels, reference_varlen, why_not_flash
from harness.engine.local.attention.choice import PARTS, AttentionShape, choose_kernel, shape_of
from harness.engine.local.attention.flex import FlexKernel
from harness.engine.local.attention.tree_attention import reference_attention
from harness.engine.local.loading import ModelSpec
from harness.engine.local.opening import load_engine
from harness.engine.local.parity import sharing_error
from harness.engine.local.scorer import Scorer
from harness.engine.local.tree.packing import make_packs
from harness.engine.local.tree.tree import build_tree
from harness.engine.local.tree.visibility import blocks_of, kept_above, visible_rows
from tests.conftest import KO_TINY
from tests.scoring import assert_scores, naive_scores, random_grid

CPU = torch.device("cpu")


def random_sequences(seed, n=40, alphabet=3, longest=60):
    """Sequences over few tokens: trees with branches at every depth."""
    rng = random.Random(seed)
    found = [[rng.randrange(alphabet) for _ in range(rng.randrange(1, longest))] for _ in range(4)]
    while len(found) < n:
        stem = rng.choice(found)
        tail = [rng.randrange(alphabet) for _ in range(rng.randrange(1, 20))]
        found.append(stem[: rng.randrange(len(stem) + 1)] + tail)
    return found


def rows_of(tree):
    """(path, offset) of every row of the whole layout."""
    return [(p, i) for p, path in enumerate(tree.paths) for i in range(path.end - path.start)]


def sees(tree, row, key):
    """Straight from the definition: own path up to itself, ancestors up to where the path hangs off."""
    (path, offset), (other, place) = row, key
    if path == other:
        return place <= offset
    while tree.paths[path].parent >= 0:
        depth, path = tree.paths[path].start, tree.paths[path].parent
        if path == other:
            return tree.paths[path].start + place < depth
    return False


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tokens_per_pack", [1, 37, 150, 10**6])
def test_one_range_per_key_says_which_rows_see_it(seed, tokens_per_pack):
    sequences = random_sequences(seed)
    tree = build_tree(sequences, least_saved=1 + seed % 3)
    assert len(tree.paths) > 10
    for pack in make_packs(tree, sequences, tokens_per_pack):
        rows = [(pack.first_path + i, j) for i in range(len(pack.offsets) - 1)
                for j in range(pack.offsets[i + 1] - pack.offsets[i])]  # fmt: skip
        above = [(path, j) for path, n in kept_above(pack) for j in range(n)]
        padding, n_rows = 5, len(rows) + 3
        seen = visible_rows(pack, n_rows, len(above) + padding)
        keys = [*rows, None, None, None, *above, *[None] * padding]
        expected = np.array([[key is not None and sees(tree, row, key) for key in keys] for row in rows])
        index = np.arange(len(rows))[:, None]
        assert np.array_equal((seen.first <= index) & (index < seen.last), expected)
        everything = [(p, j) for p in range(pack.first_path) for j in range(tree.paths[p].end - tree.paths[p].start)]
        kept = set(above)
        assert not any(sees(tree, row, key) for row in rows for key in everything if key not in kept)


@pytest.mark.parametrize("seed", range(4))
def test_blocks_hold_everything_that_is_seen_and_full_ones_nothing_else(seed):
    sequences = random_sequences(seed, n=60)
    tree = build_tree(sequences)
    size, rows = 16, 512
    for pack in make_packs(tree, sequences, 300):
        n_kept = sum(n for _, n in kept_above(pack))
        seen = visible_rows(pack, rows, -(-n_kept // size) * size)
        index = np.arange(rows)[:, None]
        mask = (seen.first <= index) & (index < seen.last)
        blocks = blocks_of(seen, rows, size)
        for row in range(rows // size):
            partial = set(blocks.partial[row, : blocks.n_partial[row]].tolist())
            full = set(blocks.full[row, : blocks.n_full[row]].tolist())
            assert not partial & full
            for key in range(mask.shape[1] // size):
                block = mask[row * size : (row + 1) * size, key * size : (key + 1) * size]
                assert block.all() if key in full else key in partial or not block.any()
        assert (blocks.n_partial + blocks.n_full).sum() < 0.7 * blocks.partial.size, "blocks must be left out"


def test_levels_hold_every_edge_once_and_do_not_overlap():
    sequences = random_sequences(3, n=80)
    tree = build_tree(sequences)
    for pack in make_packs(tree, sequences, 200):
        levels = make_levels(pack)
        for level in levels:
            rows = np.arange(len(pack.tokens))[level.rows if isinstance(level.rows, slice) else level.rows.array]
            assert len(np.unique(rows)) == len(rows) == level.query_ends[-1]
        assert sum(len(level.query_ends) for level in levels) == len(pack.ancestors)
        pairs = sum((edge.last - edge.first) * edge.n_keys for edge in pack.ancestors)
        found = sum(
            int((np.diff(level.query_ends, prepend=0) * np.diff(level.key_ends, prepend=0)).sum()) for level in levels
        )
        assert found == pairs


def dense_attention(tree, sequences, vectors, scale):
    """Every row of the tree against every key, in float64, by the definition."""
    query, key, value = (x.double() for x in vectors)
    rows = rows_of(tree)
    mask = torch.tensor([[sees(tree, row, other) for other in rows] for row in rows])
    groups = query.shape[0] // key.shape[0]
    key, value = (x.repeat_interleave(groups, 0) for x in (key, value))
    scores = (query @ key.transpose(1, 2) * scale).masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ value


def attend(kernel, packs, vectors, scale):
    kept, outputs, row = {}, [], 0
    for pack in packs:
        own = [x[:, row : row + len(pack.tokens)] for x in vectors]
        state = kernel.begin(pack, kept)
        outputs.append(state.attend(0, *own, scale))
        kept, row = state.keep, row + len(pack.tokens)
    return torch.cat(outputs, 1)


EVERY_KERNEL = {
    "parts": lambda: PARTS,
    "cascade": lambda: CascadeKernel(reference_varlen),
    "flex": lambda: FlexKernel(128, compiled=False),
}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kernel", EVERY_KERNEL)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "tokens_per_pack"),
    [(2, 2, 64, 10**6), (2, 1, 80, 60), (2, 1, 96, 10**6), (2, 2, 128, 100), (1, 1, 256, 10**6), (4, 2, 8, 60)],
)
def test_every_kernel_attends_as_the_definition_says(kernel, heads, kv_heads, size, tokens_per_pack):
    sequences = random_sequences(size, n=12)
    tree = build_tree(sequences)
    generator = torch.Generator().manual_seed(size)
    vectors = [torch.randn(n, tree.n_tokens, size, generator=generator) for n in (heads, kv_heads, kv_heads)]
    expected = dense_attention(tree, sequences, vectors, 0.3)
    packs = list(make_packs(tree, sequences, tokens_per_pack))
    found = attend(EVERY_KERNEL[kernel](), packs, vectors, 0.3)
    assert (found - expected).abs().max() < 1e-5
    assert expected.std() > 0.1


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("scores", [1, 100, 350, 10**6])
def test_attention_in_portions_is_attention(monkeypatch, causal, scores):
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(3, 2, 17, 8, generator=generator) for _ in range(3))
    expected = reference_attention(query, key, value, 0.4, causal)
    sizes = []
    monkeypatch.setattr(memory, "SCORES_AT_ONCE", scores)
    monkeypatch.setattr(attention, "reference_attention", lambda q, k, v, *rest: (
        sizes.append(3 * 2 * q.shape[2] * k.shape[2]), reference_attention(q, k, v, *rest))[1])  # fmt: skip
    for found, whole in zip(attention.attention_in_portions(query, key, value, 0.4, causal), expected, strict=True):
        assert (found - whole).abs().max() < 1e-6
    assert max(sizes) <= max(scores, 3 * 2 * 17)
    assert len(sizes) == {1: 17, 100: 17, 350: 6, 10**6: 1}[scores]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens_per_pack", [60, 10**6])
def test_the_cascade_merges_16_bits_in_float32(dtype, tokens_per_pack):
    sequences = random_sequences(7, n=12)
    tree = build_tree(sequences)
    generator = torch.Generator().manual_seed(7)
    vectors = [torch.randn(n, tree.n_tokens, 64, generator=generator).to(dtype) for n in (4, 2, 2)]
    expected = dense_attention(tree, sequences, vectors, 0.125)
    packs = list(make_packs(tree, sequences, tokens_per_pack))
    assert any(pack.ancestors for pack in packs)
    found = attend(CascadeKernel(reference_varlen), packs, vectors, 0.125)
    assert found.dtype == dtype
    assert (found - expected).pow(2).mean().sqrt() < 0.01 * expected.std()


class Operations(TorchDispatchMode):
    """Names of the operations of a block, with the sizes of what they make."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.made.append((function.overloadpacket.__name__, tuple(result.shape)))
        return result


def test_the_cascade_adds_a_trunk_in_place():
    """Rows below a trunk follow one another: nothing is gathered, and nothing of a pack's size is copied."""
    trunk, leaf, n = 300, 20, 40
    stem = list(range(trunk))
    sequences = [stem[: trunk // (1 + i % 3)] + [1000 + i] * leaf for i in range(n)]
    tree = build_tree(sequences)
    packs = list(make_packs(tree, sequences, 600))[:2]
    vectors = [torch.randn(2, len(pack.tokens), 16).bfloat16() for pack in packs]
    kernel = CascadeKernel(lambda q, k, v, spans, scale, causal: (torch.zeros_like(q), torch.zeros(2, q.shape[0])))
    first = kernel.begin(packs[0], {})
    first.attend(0, vectors[0], vectors[0], vectors[0], 1.0)
    second = kernel.begin(packs[1], first.keep)
    assert second.levels
    with Operations() as seen:
        second.attend(0, vectors[1], vectors[1], vectors[1], 1.0)
    names = [name for name, _ in seen.made]
    assert not {"index_copy", "index_copy_", "index_select"} & set(names)
    joined = [shape for name, shape in seen.made if name == "cat"]
    assert all(shape[0] < len(packs[1].tokens) for shape in joined), "keys of the pack itself were copied"


def test_random_vectors_of_the_choice_are_drawn_on_the_device(monkeypatch):
    devices = []
    straight = torch.randn

    def randn(*shape, generator, device):
        devices.append((generator.device, device))
        return straight(*shape, generator=generator, device=device)

    monkeypatch.setattr(torch, "randn", randn)
    kernels._Trial(SHAPE, 256, 100, CPU)
    assert devices
    assert set(devices) == {(CPU, CPU)}


def test_a_broken_device_ends_the_choice():
    def fail(pack, kept):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        choose([Renamed("a", fail), PARTS], [1e-3, 2e-3])


def test_a_kernel_keeps_no_more_than_later_packs_need():
    """Copies, not views into the whole pack."""
    sequences = random_sequences(1)
    tree = build_tree(sequences)
    pack = next(iter(make_packs(tree, sequences, 200)))
    vectors = [torch.randn(2, len(pack.tokens), 16) for _ in range(3)]
    for name in ("parts", "cascade"):
        state = EVERY_KERNEL[name]().begin(pack, {})
        state.attend(0, *vectors, 1.0)
        assert {path: keys.shape[1] for path, (keys, _) in state.keep[0].items()} == dict(pack.keep)
        assert all(x._base is None for pair in state.keep[0].values() for x in pair)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kernel", ["cascade", "flex"])
@pytest.mark.parametrize("kind", ["gpt_neox", "llama"])
def test_models_score_alike_on_every_kernel(random_models, kind, kernel):
    model, made = random_models[kind], EVERY_KERNEL[kernel]()
    assert sharing_error(model, 500, made) is None
    contexts, labels = random_grid(seed=31, n_queries=2)
    assert_scores(Scorer(model, 200, True, made).score(contexts, labels), naive_scores(model, contexts, labels))


def needs_compiler():
    if not shutil.which("g++"):
        pytest.skip("compiled FlexAttention on a CPU needs g++")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt_neox", "llama"])
def test_compiled_flex_scores_alike_and_compiles_once_per_shape(random_models, kind):
    needs_compiler()
    from torch._dynamo.utils import counters

    model, kernel = random_models[kind], FlexKernel(256)
    counters.clear()
    for seed in (41, 42, 43):
        contexts, labels = random_grid(seed=seed, n_queries=6)
        assert_scores(Scorer(model, 256, True, kernel).score(contexts, labels), naive_scores(model, contexts, labels))
    assert len(kernel.shapes) == counters["stats"]["unique_graphs"] == 2, "without kept keys, and with 1024 of them"


@pytest.mark.slow
@pytest.mark.parametrize("size", [80, 96, 128, 256])
def test_compiled_flex_takes_the_head_sizes_of_the_models(size):
    needs_compiler()
    shape = AttentionShape(2, 1, size, torch.float32)
    choice = choose_kernel(shape, 256, 200, CPU, [FlexKernel(256), PARTS], seconds_of=lambda call: 1.0)
    assert set(choice.seconds) == {"flex", "parts"}, choice.remarks


class Wrong:
    """Attends as the parts do, and then spoils the outputs."""

    name = "wrong"

    def begin(self, pack, kept, needed=None):
        state = PARTS.begin(pack, kept, needed)
        straight = state.attend
        state.attend = lambda *args: straight(*args) * 1.1
        return state


class Renamed:
    def __init__(self, name, begin=PARTS.begin):
        self.name, self.begin = name, begin


def refuse(pack, kept):
    raise RuntimeError("no kernel image is available\nfor execution on the device")


SHAPE = AttentionShape(2, 2, 16, torch.float32)


def choose(kernels, seconds):
    times = iter(seconds)
    return choose_kernel(SHAPE, 256, 100, CPU, kernels, seconds_of=lambda call: (call(), next(times))[1])


def test_the_fastest_kernel_is_chosen_and_the_others_are_told():
    choice = choose([Renamed("a"), Renamed("b"), PARTS], [3e-3, 1e-3, 2e-3])
    assert choice.kernel.name == "b"
    assert choice.notice is None
    assert choice.seconds == {"a": 3e-3, "b": 1e-3, "parts": 2e-3}
    assert choice.remarks["a"] == "slower: 3.00 ms a layer and pack against 1.00"


def test_a_fast_kernel_that_is_wrong_is_never_chosen():
    choice = choose([Wrong(), PARTS], [1e-3])
    assert choice.kernel is PARTS
    assert "differs from float32 by 0.1 of its spread" in choice.remarks["wrong"]
    assert choice.notice.startswith("no faster attention than plain operations: wrong: differs")


def test_a_kernel_that_raises_leaves_the_parts_and_one_line():
    choice = choose([Renamed("broken", refuse), PARTS], [1e-3])
    assert choice.kernel is PARTS
    assert choice.remarks["broken"] == "RuntimeError: no kernel image is available for execution on the device"


def test_where_nothing_runs_the_parts_are_tried_all_the_same():
    assert choose([Renamed("broken", refuse)], []).kernel is PARTS


def test_a_cpu_takes_the_parts_without_a_measurement(ko_tiny):
    choice = choose_kernel(shape_of(ko_tiny), 2048, 500, CPU)
    assert (choice.kernel, choice.notice, choice.seconds) == (PARTS, None, {})


def test_flash_attention_says_what_it_does_not_take():
    assert why_not_flash(CPU, torch.bfloat16, 64) == "it runs on CUDA only"


def test_flex_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert kernels.why_not_flex(CPU) == "there is no C++ compiler"


def test_the_shape_is_read_from_the_model(random_models):
    assert shape_of(random_models["qwen3"]) == AttentionShape(4, 2, 32, torch.float32)
    assert shape_of(random_models["gpt2"]) == AttentionShape(4, 4, 16, torch.float32)


def test_a_model_that_only_plain_operations_serve_shares_by_them(monkeypatch):
    """A kernel that passes on random vectors and fails on the whole model is given up, with the reason."""
    chosen = kernels.KernelChoice(Wrong(), None, {}, {"wrong": 1e-3}, 0.0)
    monkeypatch.setattr("harness.engine.local.opening.choose_kernel", lambda *args: chosen)
    scorer, facts = load_engine(ModelSpec(str(KO_TINY), dtype="float32", device="cpu"), True, 512, 100, None)
    assert scorer.kernel is PARTS
    assert (facts.shares_prefixes, facts.sharing_notice, facts.attention) == (True, None, "parts")
    assert facts.attention_notice.startswith("with wrong attention packed and plain logits differ")


def test_the_reference_for_sequences_end_to_end_is_attention_one_by_one():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(n, heads, 8, generator=generator) for n, heads in ((5, 4), (9, 2), (9, 2)))
    from harness.engine.local.attention.cascade import Spans

    spans = Spans.of([2, 5], [4, 9])
    assert (spans.most_queries, spans.most_keys) == (3, 5)
    output, lse = reference_varlen(query, key, value, spans, 0.5, False)
    alone, sums = reference_attention(
        query[2:].transpose(0, 1), *(x[4:].transpose(0, 1).repeat_interleave(2, 0) for x in (key, value)), 0.5, False
    )
    assert torch.equal(output[2:], alone.transpose(0, 1))
    assert torch.equal(lse[:, 2:], sums)
