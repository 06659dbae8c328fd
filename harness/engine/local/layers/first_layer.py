"""What the first layer need not compute twice.

Where positions enter by rotation, what goes into the first layer is the token's embedding and nothing else. So the
projections to queries, keys and values give the same for a token wherever it stands, and so does a feed-forward part
beside attention. Each token's results are computed once and looked up from then on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from harness.engine.local import memory
from harness.engine.local.transfer import to_device
from harness.engine.local.tree.packing import whole_steps
from harness.engine.local.tree.tree import Ints

Tensor = torch.Tensor


class FirstLayer:
    """The first layer's results per token, as far as they depend on nothing else.

    Args:
        parts: that depend on the token alone, and how many numbers each gives per token.
        weight: of the embeddings, `(vocabulary, hidden_size)`.
        tokens_per_pack: most tokens of a forward pass.
    """

    def __init__(self, parts: dict[torch.nn.Module, int], weight: Tensor, tokens_per_pack: int) -> None:
        self.parts = parts
        self.bytes_per_token = sum(parts.values()) * weight.element_size()
        self.device = weight.device.type
        self.results: dict[torch.nn.Module, Tensor] = {}
        self.place: Ints = np.full(weight.shape[0], -1, dtype=np.int64)
        self.make_room(tokens_per_pack)

    def make_room(self, tokens_per_pack: int) -> None:
        """Begin anew with room for packs of some size; what was remembered is given back."""
        self.results.clear()
        self.capacity = memory.remembered_tokens(self.bytes_per_token, len(self.place), tokens_per_pack, self.device)
        self.forget()

    @contextmanager
    def remembering(self, tokens: Ints) -> Iterator[None]:
        """Compute in one forward pass only what no earlier one has.

        Args:
            tokens: `(n_tokens,)` the tokens of the pass, in order.
        """
        distinct, firsts = np.unique(tokens, return_index=True)
        if not self.parts or len(distinct) > self.capacity:
            yield
            return
        if self.used + np.count_nonzero(self.place[distinct] < 0) > self.capacity:
            self.forget()
        new = self.place[distinct] < 0
        begin, count = self.used, int(np.count_nonzero(new))
        self.place[distinct[new]] = np.arange(begin, begin + count)
        self.used += count
        fillers = np.setdiff1d(np.arange(len(tokens)), firsts[new])[: whole_steps(count) - count]
        wanted, places = np.concatenate([firsts[new], fillers]), self.place[tokens]

        def take(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (inputs[0].index_select(1, to_device(wanted, inputs[0].device)),)

        def put(module: torch.nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            if module not in self.results:
                # Rows that are not written yet take no memory on a CPU.
                self.results[module] = output.new_empty(self.capacity, output.shape[-1])
            results = self.results[module]
            results[begin : begin + count] = output[0, :count]
            return results.index_select(0, to_device(places, results.device))[None]

        with ExitStack() as hooks:
            for part in self.parts:
                hooks.callback(part.register_forward_pre_hook(take).remove)
                hooks.callback(part.register_forward_hook(put).remove)
            try:
                yield
            except BaseException:
                self.forget()
                raise

    def forget(self) -> None:
        """Begin anew in the same room."""
        self.place[:] = -1
        self.used = 0
