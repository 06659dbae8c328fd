"""Classifies texts with a checkpoint for sequence classification, batches sorted by length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from harness.config.schema import ModelEntry
from harness.core.errors import NotFiniteError
from harness.engine.classifying import Classes, LoadedClassifier, Texts
from harness.engine.local.encoders.checkpoints import encoded, facts_of, open_checkpoint
from harness.engine.protocol import OpenSettings

BATCH = 32
"""Texts of one forward pass."""


class Encoder(LoadedClassifier):
    """A loaded encoder with its head.

    Args:
        model: in evaluation mode on its device.
        tokenizer: of the checkpoint.
        longest: tokens of an input; longer texts are cut.
    """

    def __init__(self, model: Any, tokenizer: Any, longest: int | None) -> None:
        self.model, self.tokenizer, self.longest = model, tokenizer, longest
        self.facts = facts_of(model)

    @torch.inference_mode()
    def classify(self, texts: Sequence[Texts]) -> Classes:
        """See `LoadedClassifier.classify`."""
        inputs = encoded(self.tokenizer, texts, self.longest)
        n_tokens = np.array([len(one["input_ids"]) for one in inputs])
        order = np.argsort(-n_tokens, kind="stable")
        logprobs = np.empty((len(texts), self.model.config.num_labels))
        computed = 0
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = self.tokenizer.pad([inputs[row] for row in rows], return_tensors="pt").to(self.model.device)
            logits = self.model(**batch).logits.float()
            computed += int(batch["input_ids"].numel())
            logprobs[rows] = torch.log_softmax(logits.double(), -1).cpu().numpy()
        if not np.isfinite(logprobs).all():
            raise NotFiniteError(f"logits are NaN or infinite in {self.facts.dtype}; set its dtype to float32")
        return Classes(logprobs, n_tokens, computed)


def open_encoder(entry: ModelEntry, settings: OpenSettings) -> Encoder:
    """Load a checkpoint; see `open_checkpoint`."""
    found = open_checkpoint(entry, settings, AutoModelForSequenceClassification)
    return Encoder(found.model, found.tokenizer, found.longest)
