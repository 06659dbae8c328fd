"""What the last layer need not compute.

Nothing attends to what leaves the last layer, so its feed-forward part, two thirds of a layer's weights in most
models, is needed for those tokens only whose hidden states are read: one or so per prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from harness.engine.packing import LEAST_ROWS
from harness.engine.transfer import to_device

Tensor = torch.Tensor


def last_feed_forward(model: Any) -> torch.nn.Module | None:
    """The last layer's feed-forward part where it is one of linear maps, row by row; None where none was found."""
    n_layers = model.config.get_text_config().num_hidden_layers
    stacks = [m for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n_layers]
    found = getattr(stacks[0][-1], "mlp", None) if len(stacks) == 1 else None
    if not isinstance(found, torch.nn.Module):
        return None
    weighted = [m for m in found.modules() if next(m.parameters(recurse=False), None) is not None]
    return found if all(isinstance(m, torch.nn.Linear | Conv1D) for m in weighted) else None


@contextmanager
def reading(feed_forward: torch.nn.Module | None, rows: Sequence[int], n_rows: int) -> Iterator[None]:
    """Let a feed-forward part compute some rows only; the others come out as zeros.

    Args:
        feed_forward: of `last_feed_forward`; None changes nothing.
        rows: places in the pack; a few more are taken where they are fewer than `LEAST_ROWS`.
        n_rows: tokens of the pack.
    """
    read = set(rows)
    others = (row for row in range(n_rows) if row not in read)
    wanted = sorted(read.union(islice(others, max(0, LEAST_ROWS - len(read)))))
    if feed_forward is None or len(wanted) == n_rows:
        yield
        return

    def take(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        # Some add a residual of their own, which is another input.
        return (inputs[0].index_select(1, to_device(wanted, inputs[0].device)),) if len(inputs) == 1 else None

    def put(module: torch.nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if output.shape[1] == n_rows:
            return None
        places = to_device(wanted, output.device)
        return output.new_zeros(1, n_rows, output.shape[-1]).index_copy_(1, places, output)

    handles = [feed_forward.register_forward_pre_hook(take), feed_forward.register_forward_hook(put)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
