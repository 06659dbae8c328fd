"""What the last layer need not compute.

Nothing attends to what leaves the last layer. So its attention, and what comes after that, two thirds of a layer's
weights and more, is needed for those tokens only whose hidden states are read: one or so per prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice

import torch

from harness.engine.local.transfer import to_device
from harness.engine.local.tree.packing import whole_steps

Tensor = torch.Tensor


@contextmanager
def reading(parts: Sequence[torch.nn.Module], rows: Sequence[int], n_rows: int) -> Iterator[None]:
    """Let some parts of a model compute some rows only; the others come out as zeros.

    Args:
        parts: each takes and gives `(1, n_rows, size)`, row by row.
        rows: in order; a few more are taken to fill up `whole_steps`.
        n_rows: of the pass.
    """
    read = set(rows)
    others = (row for row in range(n_rows) if row not in read)
    wanted = sorted([*rows, *islice(others, whole_steps(len(rows)) - len(rows))])
    if len(wanted) == n_rows:
        yield
        return

    def take(module: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].index_select(1, to_device(wanted, inputs[0].device)),)

    def put(module: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        places = to_device(wanted, output.device)
        return output.new_zeros(1, n_rows, output.shape[-1]).index_copy_(1, places, output)

    with ExitStack() as hooks:
        for part in parts:
            hooks.callback(part.register_forward_pre_hook(take).remove)
            hooks.callback(part.register_forward_hook(put).remove)
        yield
