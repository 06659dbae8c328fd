"""The limit: the time that the unique tokens' matrix products take at the machine's peak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.core.prefixes import shared_prefix_lengths
from harness.engine.local.layers.packed_weights import PackedLinear
from tests.bench.clock import Clock


@dataclass(frozen=True)
class Work:
    """Floating-point operations that a workload needs when each unique token is computed once.

    Attributes:
        tokens: prompt tokens, each prompt by itself.
        unique: the same, each shared token once.
        linear: of the layers' weight matrices, 2 per weight and token, over the unique tokens and those generated;
            embeddings and head left out.
        head: of one row of the head per prompt, or per generated token.
        attention: scores and weighted sums over the tokens before, 4 x hidden size x layers per pair.
    """

    tokens: int
    unique: int
    linear: int
    head: int
    attention: int


def count_work(model: Any, contexts: Sequence[Sequence[int]], new_tokens: int) -> Work:
    """The operations of answering some prompts, read from the model's own layers.

    Args:
        contexts: token ids of the prompts.
        new_tokens: generated for each; 0 where labels of one token are compared.
    """
    config = model.config.get_text_config()
    arrays = [np.asarray(c, dtype=np.int32) for c in sorted(map(tuple, contexts))]
    shared = shared_prefix_lengths(arrays)
    unique = sum(len(a) - s for a, s in zip(arrays, shared, strict=True))
    pairs = sum(_up_to(len(a)) - _up_to(s) for a, s in zip(arrays, shared, strict=True))
    weights = sum(layer.weight.numel() for layer in linear_layers(model))
    # The last generated token is never an input.
    generated = max(0, new_tokens - 1)
    pairs += sum(_up_to(len(a) + generated) - _up_to(len(a)) for a in arrays)
    return Work(
        tokens=sum(map(len, contexts)),
        unique=unique,
        linear=2 * weights * (unique + generated * len(arrays)),
        head=2 * model.get_output_embeddings().weight.numel() * len(arrays) * max(1, new_tokens),
        attention=4 * config.hidden_size * config.num_hidden_layers * pairs,
    )


def linear_layers(model: Any) -> list[torch.nn.Linear]:
    """The backbone's weight matrices, in order."""
    return [m for m in model.base_model.modules() if isinstance(m, torch.nn.Linear)]


@torch.inference_mode()
def measure_peak(models: Sequence[Any], rows: int, repeats: int, now: Clock) -> float:
    """Operations per second of a model's own weight matrices, one after another, without biases.

    Args:
        models: the same model with its weights laid out in several ways; the fastest counts.
        rows: tokens of one product, those of a pack.
        repeats: the fastest counts.
        now: the clock.
    """
    return max(_speed(linear_layers(model), rows, repeats, now) for model in models)


def _speed(layers: list[torch.nn.Linear], rows: int, repeats: int, now: Clock) -> float:
    where = {"device": layers[0].weight.device, "dtype": layers[0].weight.dtype}
    inputs = {n: torch.randn(rows, n, **where) for n in {m.in_features for m in layers}}
    work = sum(2 * rows * m.weight.numel() for m in layers)
    best = float("inf")
    for _ in range(repeats):
        started = now()
        for layer in layers:
            _multiply(inputs[layer.in_features], layer)
        best = min(best, now() - started)
    return work / best


def _multiply(rows: torch.Tensor, layer: torch.nn.Linear) -> torch.Tensor:
    """A linear map without its bias."""
    if isinstance(layer, PackedLinear):
        return layer.product(rows, None)
    return torch.nn.functional.linear(rows, layer.weight)


def _up_to(n: int) -> int:
    return n * (n + 1) // 2
