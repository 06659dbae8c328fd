"""One decoding step after another. A GPU records a step and replays it: hundreds of launches become one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from harness.engine.local.attention.decoding import DecodingState
from harness.engine.local.attention.tree_attention import attending
from harness.engine.local.device_errors import breaks_the_device, is_out_of_memory
from harness.engine.local.finiteness import finite_tokens
from harness.engine.local.transfer import to_device

log = logging.getLogger(__name__)
Tensor = torch.Tensor
Replay = Callable[[], None]
Record = Callable[[Callable[[], None]], Replay]
"""Records what a call does on the device, without doing it; the result does it, on the same tensors."""


def record_cuda_graph(call: Callable[[], None]) -> Replay:
    """A `Record` by CUDA graphs; other threads of the process may use the device meanwhile."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        call()
    return graph.replay


class Stepper:
    """Adds the most likely token to every sequence of a batch, step by step, on the device.

    Args:
        model: a transformers causal language model that attends by a state.
        head: hidden states to logits.
        state: keys and values of the sequences.
        latest: the last token of each sequence.
        positions: of those tokens.
        record: records a step for replaying; None runs every step as it comes.
    """

    def __init__(
        self,
        model: Any,
        head: Callable[[Tensor], Tensor],
        state: DecodingState,
        latest: list[int],
        positions: list[int],
        record: Record | None,
    ) -> None:
        self.model, self.head, self.state, self.record = model, head, state, record
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.tokens, self.positions = (to_device(x, self.device) for x in (latest, positions))
        self.found = self.tokens.clone()
        self.replay: Replay | None = None
        self._replayed = self._ran = (0, 0)

    def step(self) -> Tensor:
        """The next token of every sequence, `(n_sequences,)`, as of `finite_tokens`; nothing waits for the device.

        A step that is like the one before it is recorded, and replayed from then on.
        """
        shape = len(self.tokens), self.state.used
        if self.record is not None and shape == self._ran and shape != self._replayed:
            self._try_recording(self.record, shape)
        if self.replay is not None and shape == self._replayed:
            self.replay()
        else:
            self.replay, self._ran = None, shape
            self.advance()
        self.state.step_done()
        return self.found

    def keep_rows(self, rows: list[int]) -> None:
        """Go on with these sequences only."""
        self.state.keep_rows(rows)
        index = to_device(np.asarray(rows), self.device)
        self.tokens, self.positions, self.found = self.tokens[index], self.positions[index], self.found[index]

    def advance(self) -> None:
        """Launch one step; tokens, positions and caches are changed in place. This is what a graph records."""
        with attending(self.state):
            output = self.model.base_model(
                input_ids=self.tokens[None], position_ids=self.positions[None], use_cache=False
            )
        self.found.copy_(finite_tokens(self.head(output.last_hidden_state[0])))
        self.tokens.copy_(self.found.clamp(min=0))
        self.positions += 1
        self.state.count_on_devices()

    def _try_recording(self, record: Record, shape: tuple[int, int]) -> None:
        try:
            self.replay, self._replayed = record(self.advance), shape
        except RuntimeError as error:
            if is_out_of_memory(error) or breaks_the_device(error):
                raise
            self.record = None
            log.warning("decoding steps cannot be recorded, each is launched anew: %s", " ".join(str(error).split()))
