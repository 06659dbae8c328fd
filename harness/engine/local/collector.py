"""Hidden states at chosen places to log-probabilities of labels, fetched from the device once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from harness.engine.local.layers.head import GivenLogits, Head, log_sum_exp
from harness.engine.local.memory import LOGITS_AT_ONCE
from harness.engine.local.transfer import to_device
from harness.engine.local.tree.readouts import Target

Ids = Sequence[int]


class Collector:
    """Turns hidden states at chosen places into scores."""

    def __init__(self, contexts: Sequence[Ids], labels: Sequence[Sequence[Ids]], head: Head | GivenLogits) -> None:
        n_labels = len(labels[0]) if labels else 0
        longest = max((len(label) for row in labels for label in row), default=1)
        self.token_logprobs = np.zeros((len(contexts), n_labels, longest))
        self.argmax = np.zeros(len(contexts), dtype=np.int64)
        self.off_label_mass = np.zeros(len(contexts))
        self.labels = labels
        self.head = head
        self._firsts: list[tuple[Any, ...]] = []
        self._laters: list[tuple[Any, ...]] = []

    def first_tokens(self, hidden: torch.Tensor, prompts: list[int]) -> None:
        """Score the first token of every label; `hidden` is `(len(prompts), hidden_size)`."""
        for rows, part in self._chunks(hidden, prompts):
            first = to_device([[label[0] for label in self.labels[p]] for p in part], rows.device)
            found = (rows.gather(1, first) - log_sum_exp(rows)).double()
            self._firsts.append((part, found, rows.argmax(-1)))

    def later_tokens(self, hidden: torch.Tensor, targets: list[Target]) -> None:
        """Score one later label token per row of `hidden`."""
        for rows, part in self._chunks(hidden, targets):
            tokens = to_device([[t.token] for t in part], rows.device)
            found = (rows.gather(1, tokens) - log_sum_exp(rows)).double()
            self._laters.append((part, found[:, 0]))

    def finish(self) -> None:
        """Fetch what the device computed: the one place that waits for it."""
        for part, found, argmax in _fetched(self._firsts):
            self.token_logprobs[part, :, 0] = found
            self.argmax[part] = argmax
            tokens = np.asarray([[label[0] for label in self.labels[p]] for p in part])
            repeated = np.zeros(tokens.shape, dtype=bool)
            for column in range(1, tokens.shape[1]):
                repeated[:, column] = (tokens[:, :column] == tokens[:, column : column + 1]).any(1)
            on_labels = np.where(repeated, 0.0, np.exp(found)).sum(1)
            self.off_label_mass[part] = np.clip(1.0 - on_labels, 0.0, 1.0)
        for part, found in _fetched(self._laters):
            places = [(target.prompt, target.label, target.place) for target in part]
            self.token_logprobs[tuple(zip(*places, strict=True))] = found

    def _chunks(self, hidden: torch.Tensor, items: list[Any]) -> Any:
        size = max(1, LOGITS_AT_ONCE // self.head.vocabulary)
        for start in range(0, len(items), size):
            yield self.head(hidden[start : start + size]), items[start : start + size]


def _fetched(results: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Items and tensors of all chunks as one tuple, the tensors joined on the device and copied once."""
    if not results:
        return []
    items, *columns = zip(*results, strict=True)
    return [([item for part in items for item in part], *(torch.cat(column).cpu().numpy() for column in columns))]
