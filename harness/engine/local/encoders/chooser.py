"""Chooses with a checkpoint for multiple choice: each choice is read with the text, batches sorted by length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMultipleChoice

from harness.config.schema import ModelEntry
from harness.core.errors import NotFiniteError
from harness.engine.choosing import Alternatives, Choices, LoadedChooser, paired
from harness.engine.local.encoders.checkpoints import Checkpoint, encoded, facts_of, open_checkpoint
from harness.engine.protocol import OpenSettings

BATCH = 32
"""Texts of one forward pass, each with one choice."""


class EncoderChooser(LoadedChooser):
    """A loaded encoder whose head gives one number to a text with a choice.

    Args:
        checkpoint: loaded.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model, self.tokenizer, self.longest = checkpoint.model, checkpoint.tokenizer, checkpoint.longest
        self.facts = facts_of(self.model)

    @torch.inference_mode()
    def choose(self, samples: Sequence[Alternatives]) -> Choices:
        """See `LoadedChooser.choose`."""
        inputs = encoded(self.tokenizer, [one for sample in samples for one in paired(sample)], self.longest)
        lengths = np.array([len(one["input_ids"]) for one in inputs])
        logits = np.empty(len(inputs))
        order, computed = np.argsort(-lengths, kind="stable"), 0
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = self.tokenizer.pad([inputs[row] for row in rows], return_tensors="pt").to(self.model.device)
            # The head sees each row by itself; as one sample's choices, rows of several samples share a pass.
            shaped: dict[str, Any] = {name: tensor[None] for name, tensor in batch.items()}
            logits[rows] = self.model(**shaped).logits[0].double().cpu().numpy()
            computed += int(batch["input_ids"].numel())
        if not np.isfinite(logits).all():
            raise NotFiniteError(f"logits are NaN or infinite in {self.facts.dtype}; set its dtype to float32")
        ends = np.cumsum([len(sample.choices) for sample in samples])[:-1]
        logprobs = [row - np.logaddexp.reduce(row) for row in np.split(logits, ends)]
        n_tokens = np.array([own.sum() for own in np.split(lengths, ends)])
        return Choices(logprobs, n_tokens, computed)


def open_chooser(entry: ModelEntry, settings: OpenSettings) -> EncoderChooser:
    """Load a checkpoint; see `open_checkpoint`."""
    return EncoderChooser(open_checkpoint(entry, settings, AutoModelForMultipleChoice))
