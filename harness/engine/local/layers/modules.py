"""Finds the parts of a model's first and last layer that need not be computed for every token.

They are found by watching one forward pass, not by name. Each token stands in a short sequence twice, among other
neighbours the second time, and attention is replaced by running sums, in which no two rows are alike.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.engine.local.attention.tree_attention import NAME, attending
from harness.engine.local.transfer import to_device
from harness.engine.local.transformers_internals import TRANSPOSED_LINEAR, attention_of, text_config

Tensor = torch.Tensor
Module = torch.nn.Module
PROBED = 32
"""Tokens of the watched sequence."""


@dataclass(frozen=True)
class Parts:
    """Parts made of linear maps that take and give `(1, n_tokens, size)`, the outermost of each kind.

    Attributes:
        by_token: of the first layer, those whose output depends on the token alone; numbers they give per token.
        after_attention: of the last layer, those that run after its attention.
    """

    by_token: dict[Module, int]
    after_attention: list[Module]


@dataclass(frozen=True)
class _Call:
    attended: int
    """Attention calls before it began."""
    size: int
    alike: bool


class _RunningSums:
    """Attention that only mixes."""

    exact = False
    only_mixes = True

    def __init__(self) -> None:
        self.calls = 0

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `harness.engine.local.attention.tree_attention.State.attend`."""
        self.calls += 1
        return value.repeat_interleave(query.shape[0] // value.shape[0], 0).cumsum(1)


@torch.inference_mode()
def find_parts(model: Any) -> Parts:
    """The parts of a transformers causal language model, whose attention stays as it was."""
    layers = layers_of(model)
    if layers is None:
        return Parts({}, [])
    weight = model.get_input_embeddings().weight
    rng = np.random.default_rng(0)
    tokens = rng.choice(weight.shape[0], min(PROBED, weight.shape[0]), replace=False)
    order = rng.permutation(len(tokens))
    second = torch.from_numpy(len(tokens) + order.argsort())
    attention = _RunningSums()
    attended: dict[Module, int] = {}
    calls: dict[Module, list[_Call]] = {}

    def is_rows(found: Any) -> bool:
        return isinstance(found, Tensor) and found.shape[:-1] == (1, 2 * len(tokens))

    def same(found: Tensor) -> bool:
        return torch.equal(found[0, second.to(found.device)], found[0, : len(tokens)])

    def begin(module: Module, inputs: tuple[Any, ...]) -> None:
        attended[module] = attention.calls

    def watch(module: Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        rows = len(inputs) == 1 and not options and is_rows(inputs[0]) and is_rows(output)
        size = output.shape[-1] if rows else 0
        found = _Call(attended[module], size, rows and same(inputs[0]) and same(output))
        calls.setdefault(module, []).append(found)

    with ExitStack() as hooks:
        for part in {**dict.fromkeys(layers[0].modules()), **dict.fromkeys(layers[-1].modules())}:
            if _is_made_of_linear_maps(part):
                hooks.callback(part.register_forward_pre_hook(begin).remove)
                hooks.callback(part.register_forward_hook(watch, with_kwargs=True).remove)
        hooks.callback(model.set_attn_implementation, attention_of(model))
        model.set_attn_implementation(NAME)
        hooks.enter_context(attending(attention))
        model.base_model(
            input_ids=to_device(np.concatenate([tokens, tokens[order]]), weight.device)[None], use_cache=False
        )
    once = {part: found[0] for part, found in calls.items() if len(found) == 1 and found[0].size}
    by_token = _outermost([part for part in layers[0].modules() if part in once and once[part].alike])
    taken = {module for part in by_token for module in part.modules()}
    rest = [part for part in layers[-1].modules() if part in once and part not in taken]
    after = _outermost([part for part in rest if once[part].attended == len(layers)])
    return Parts({part: once[part].size for part in by_token}, after)


def layers_of(model: Any) -> torch.nn.ModuleList | None:
    """The layers of a transformers model, in order; None where it has no one list of them."""
    n_layers = text_config(model.config).num_hidden_layers
    stacks = [m for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n_layers]
    return stacks[0] if len(stacks) == 1 else None


def _is_made_of_linear_maps(part: Module) -> bool:
    weighted = [m for m in part.modules() if next(m.parameters(recurse=False), None) is not None]
    return bool(weighted) and all(isinstance(m, (torch.nn.Linear, *TRANSPOSED_LINEAR)) for m in weighted)


def _outermost(parts: list[Module]) -> list[Module]:
    """Parts that lie in no other; each comes after what it lies in."""
    chosen: list[Module] = []
    inside: set[Module] = set()
    for part in parts:
        if part not in inside:
            chosen.append(part)
            inside.update(part.modules())
    return chosen
