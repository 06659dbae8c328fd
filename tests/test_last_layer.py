"""The last layer computes what is read, and nothing that is read changes."""

import pytest
import torch

from harness.engine.local.layers.last_layer import reading
from harness.engine.local.scorer import Scorer
from harness.engine.local.tree.packing import ROW_STEP, make_packs
from harness.engine.local.tree.tree import build_tree
from tests.scoring import random_grid
from tests.test_scorer import KINDS


def seen_rows(module):
    """Numbers of rows that a module computes."""
    counts = []
    module.register_forward_hook(lambda module, inputs, output: counts.append(inputs[0].shape[1]))
    return counts


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_that_of_the_whole_layer(random_models, kind):
    """The other rows are not: they lack attention and feed-forward part."""
    model = random_models[kind]
    scorer = Scorer(model, 4096, True)
    sequences = [[5, 6, 7, *range(100, 140), i, i + 1, *range(40)] for i in range(200, 260)]
    tree = build_tree(sequences)
    scorer.set_attention("harness_prefix_tree")
    (pack,) = make_packs(tree, sequences, 4096)
    n = len(pack.tokens)
    read = list(range(30, n, 41))
    assert len(read) >= ROW_STEP
    with torch.inference_mode():
        whole, _ = scorer.forward_pack(pack, {}, range(n))
        some, _ = scorer.forward_pack(pack, {}, read)
    assert torch.allclose(some[read], whole[read], atol=1e-5, rtol=1e-5)
    unread = [row for row in range(n) if row not in set(read)]
    assert not torch.allclose(some[unread], whole[unread], atol=1e-2)


def test_a_grid_computes_a_row_per_prompt_there(random_models):
    model = random_models["gpt_neox"]
    contexts, labels = random_grid(seed=21)
    one = [[row[0][:1], row[1][:1]] for row in labels]
    scorer = Scorer(model, 300, True)
    projection, feed_forward = (seen_rows(part) for part in scorer.after_attention)
    computed = scorer.score(contexts, one).tokens_computed
    ends = len({tuple(context) for context in contexts})
    assert ends <= sum(feed_forward) <= ends + ROW_STEP * len(feed_forward)
    assert sum(feed_forward) < computed / 2
    assert projection == feed_forward


@pytest.mark.parametrize("read", [[], [3], list(range(40)), [7, 30]])
def test_rows_fill_up_a_step(read):
    part = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 8))
    hidden = torch.randn(1, 40, 8)
    counts = seen_rows(part)
    with torch.inference_mode(), reading([part], read, 40):
        found = part(hidden)
    assert found.shape == hidden.shape
    assert torch.allclose(found[0, read], part(hidden)[0, read], atol=1e-6)
    assert counts[0] == (ROW_STEP if len(read) <= ROW_STEP else 40)


def test_hooks_are_gone_afterwards_also_after_an_error():
    part = torch.nn.Linear(8, 8)
    with pytest.raises(RuntimeError, match="half way"), reading([part], [1], 40):
        raise RuntimeError("half way")
    assert not part._forward_hooks
    assert not part._forward_pre_hooks
