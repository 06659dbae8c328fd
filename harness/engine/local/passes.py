"""One loaded model's forward passes: packs of a prefix tree, and right-padded batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from harness.engine.local.attention.cache import Kept
from harness.engine.local.attention.choice import PARTS, Kernel
from harness.engine.local.attention.tree_attention import NAME, Needed, attending
from harness.engine.local.attention.trunks import TrunkMemory
from harness.engine.local.device_errors import give_memory_back, is_out_of_memory
from harness.engine.local.layers.compiled import NOT_COMPILED, CompiledLayers
from harness.engine.local.layers.first_layer import FirstLayer
from harness.engine.local.layers.head import Head, logits_are_plain
from harness.engine.local.layers.last_layer import reading
from harness.engine.local.layers.modules import Parts, find_parts
from harness.engine.local.rope_regimes import Regimes
from harness.engine.local.transfer import to_device
from harness.engine.local.transformers_internals import attention_of, text_config
from harness.engine.local.tree.packing import Pack, whole_steps

log = logging.getLogger(__name__)


class Passes:
    """What a model computes at a time, with what it remembers between passes.

    Args:
        model: a transformers causal language model in evaluation mode.
        tokens_per_pack: most tokens of one forward pass; halved when memory runs out.
        share_prefixes: compute every shared token once; needs a model that passes
            `harness.engine.local.parity.sharing_error`.
        kernel: how packs attend.
        compiled: layers of the model that are compiled, for packs.
    """

    def __init__(
        self,
        model: Any,
        tokens_per_pack: int,
        share_prefixes: bool,
        kernel: Kernel = PARTS,
        compiled: CompiledLayers = NOT_COMPILED,
    ) -> None:
        self.model = model
        self.tokens_per_pack = tokens_per_pack
        self.share_prefixes = share_prefixes
        self.kernel = kernel
        self.compiled = compiled
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.head = Head(model.get_output_embeddings())
        attention = attention_of(model)
        self.plain_attention = "sdpa" if attention == NAME else attention
        self.set_attention(self.plain_attention)
        self.plain_logits = logits_are_plain(model, self.head)
        self.regimes = Regimes(model)
        self.trunk = TrunkMemory(self.device)
        parts = find_parts(model) if share_prefixes else Parts({}, [])
        self.first_layer = FirstLayer(parts.by_token, model.get_input_embeddings().weight, tokens_per_pack)
        self.after_attention = parts.after_attention
        self.told: Callable[[int], object] = int
        """Called with numbers of prompts that have gone through; by itself nobody is told."""

    def forward_pack(self, pack: Pack, kept: Kept, rows: Sequence[int]) -> tuple[torch.Tensor, Kept]:
        """Compute a pack.

        Args:
            pack: the layout.
            kept: of earlier packs.
            rows: tokens of the pack whose hidden states will be read.

        Returns:
            Hidden states `(n_tokens, hidden_size)`, of which only those rows are whole, and what later packs
            need of the caches.
        """
        read = sorted(set(rows))
        last = text_config(self.model.config).num_hidden_layers - 1
        state = self.kernel.begin(pack, kept, Needed(last, np.asarray(read, dtype=np.int64)))
        n_tokens = len(pack.tokens)
        # The other kernels are for GPUs.
        fill = whole_steps(n_tokens) - n_tokens if self.kernel is PARTS and self.device.type == "cpu" else 0
        tokens, positions = (np.pad(x, (0, fill), mode="edge") for x in (pack.tokens, pack.positions))
        with (
            attending(state),
            self.first_layer.remembering(tokens),
            reading(self.after_attention, read, len(tokens)),
            self.compiled.for_rows(len(tokens)),
        ):
            output = self.model.base_model(
                input_ids=to_device(tokens, self.device)[None],
                position_ids=to_device(positions, self.device)[None],
                use_cache=False,
            )
        return output.last_hidden_state[0, :n_tokens], state.keep

    def forward_batch(self, sequences: list[Sequence[int]]) -> torch.Tensor:
        """Hidden states `(batch, length, hidden_size)` of right-padded sequences.

        Of a model that changes its logits after the head, its own logits `(batch, length, vocabulary)`.
        """
        length = max(len(s) for s in sequences)
        ids = torch.zeros(len(sequences), length, dtype=torch.long)
        mask = torch.zeros(len(sequences), length, dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        equal = all(len(s) == length for s in sequences)
        inputs = {"input_ids": ids.to(self.device), "attention_mask": None if equal else mask.to(self.device)}
        if not self.plain_logits:
            logits: torch.Tensor = self.model(**inputs, use_cache=False).logits
            return logits
        hidden: torch.Tensor = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        return hidden

    def set_attention(self, name: str) -> None:
        """Switch the model to an attention implementation: `NAME`, or its own."""
        if attention_of(self.model) != name:
            self.model.set_attn_implementation(name)

    def halve_pack(self, error: BaseException) -> None:
        """Go on with half the tokens per pack after running out of memory; else raise."""
        if not is_out_of_memory(error) or self.tokens_per_pack < 64:
            raise error
        self.tokens_per_pack //= 2
        self.first_layer.make_room(self.tokens_per_pack)
        log.warning("out of memory: going on with %d tokens per pack", self.tokens_per_pack)
        give_memory_back(error)
