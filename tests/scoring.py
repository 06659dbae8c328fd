"""Random prompts that share prefixes, and their scores by a loop that shares nothing with the scorer."""

import random

import numpy as np
import torch

from harness.engine.local.attention.tree_attention import NAME


@torch.inference_mode()
def naive_scores(model, contexts, labels):
    """One prompt at a time through the whole model, nothing shared with the scorer.

    Returns:
        log-probability sums, arg-max tokens, probability off the labels' first tokens.
    """
    if model.config._attn_implementation == NAME:
        model.set_attn_implementation("sdpa")
    sums, argmax, off = [], [], []
    for context, row in zip(contexts, labels, strict=True):
        logits = model(torch.tensor([list(context)])).logits[0, -1]
        first = torch.log_softmax(logits.double(), -1)
        argmax.append(int(logits.argmax()))
        off.append(1.0 - sum(float(first[token].exp()) for token in {label[0] for label in row}))
        sums.append([])
        for label in row:
            total = float(first[label[0]])
            if len(label) > 1:
                ids = [*context, *label]
                steps = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
                total += sum(float(steps[len(context) + i - 1, label[i]]) for i in range(1, len(label)))
            sums[-1].append(total)
    return np.array(sums), np.array(argmax), np.array(off)


def assert_scores(scores, expected, tolerance=1e-4):
    """Scores are those of `naive_scores`, within `tolerance` nats."""
    sums, argmax, off = expected
    assert np.abs(scores.logprobs - sums).max() < tolerance
    assert np.array_equal(scores.logprobs.argmax(1), sums.argmax(1))
    assert np.array_equal(scores.argmax, argmax)
    assert np.abs(scores.off_label_mass - off).max() < tolerance


def random_grid(seed, vocabulary=4096, n_queries=8):
    """Contexts that share trunks of demonstrations, in mixed order, and labels of 1 to 4 tokens."""
    rng = random.Random(seed)

    def run(n):
        return [rng.randrange(vocabulary) for _ in range(n)]

    demonstrations = [run(rng.randrange(10, 40)) for _ in range(8)]
    header = run(3)
    contexts = []
    for k in (0, 1, 3, 8):
        trunk = [t for d in demonstrations[:k] for t in d]
        contexts += [trunk + header + run(rng.randrange(1, 25)) for _ in range(n_queries)]
    contexts += [list(contexts[-1]), contexts[-1][:-1], [7]]
    rng.shuffle(contexts)
    same = rng.randrange(vocabulary)
    rows = [[run(1), run(1)], [run(1), run(3)], [[same, *run(1)], [same, *run(2)]], [[same], [same, *run(3)]]]
    return contexts, [rows[i % len(rows)] for i in range(len(contexts))]
