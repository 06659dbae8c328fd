"""Middle layers through `torch.compile`: norms, rotations, activations and residuals become few kernels.

The first and the last layer are left as they are: hooks let them run for some rows. Attention is never compiled.
Compiled code takes any number of rows, so that nothing is compiled again after the warm-up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface

from harness.engine.local.attention.tree_attention import NAME, tree_attention
from harness.engine.local.device_errors import breaks_the_device, is_out_of_memory
from harness.engine.local.layers.modules import layers_of

log = logging.getLogger(__name__)
LEAST_ROWS = 64
"""Fewer rows run as they are: code for a single row would be compiled anew, and little is gained."""


@dataclass
class CompiledLayers:
    """Which layers of a model are compiled, and whether they are in use.

    Attributes:
        layers: number of compiled layers.
        notice: why none is, where that was tried.
        seconds: that compiling took.
    """

    layers: int = 0
    notice: str | None = None
    seconds: float = 0.0
    _in_use: bool = field(default=False, repr=False)

    @contextmanager
    def for_rows(self, n_rows: int) -> Iterator[None]:
        """Use the compiled layers in a block, for forward passes of so many rows."""
        self._in_use = n_rows >= LEAST_ROWS
        try:
            yield
        finally:
            self._in_use = False

    def choose(self, compiled: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
        """A layer's forward function that is one or the other."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            return (compiled if self._in_use else plain)(*args, **kwargs)

        return forward


NOT_COMPILED = CompiledLayers()


def compile_middle_layers(
    model: Any, check: Callable[[CompiledLayers], str | None], backend: str = "inductor"
) -> CompiledLayers:
    """Compile all layers but the first and the last.

    Args:
        model: a transformers causal language model on one device.
        check: runs the model with compiled layers, which compiles them; says what is wrong, or None.
        backend: of `torch.compile`.
    """
    layers = list(layers_of(model) or [])[1:-1]
    devices = {weight.device for weight in model.parameters()}
    if not layers or len(devices) > 1:
        return CompiledLayers(
            notice="its layers lie on several devices" if len(devices) > 1 else "it has too few layers"
        )
    started = time.monotonic()
    found = CompiledLayers(len(layers))
    plain = [layer.forward for layer in layers]
    AttentionInterface.register(NAME, torch.compiler.disable(tree_attention))
    for layer, forward in zip(layers, plain, strict=True):
        layer.forward = found.choose(torch.compile(forward, dynamic=True, backend=backend), forward)
    try:
        notice = check(found)
    except Exception as error:
        if is_out_of_memory(error) or breaks_the_device(error):
            raise
        notice = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if notice is not None:
        for layer, forward in zip(layers, plain, strict=True):
            layer.forward = forward
        found = CompiledLayers(notice=notice)
    found.seconds = time.monotonic() - started
    return found
