"""A linear probe: logistic regression on the mean of an encoder's last states, which stay as they came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModel

from harness.config.schema import ModelEntry
from harness.engine.classifying import Classes, LoadedClassifier, Texts
from harness.engine.learning import Learner, Lesson
from harness.engine.local.encoders.checkpoints import encoded, facts_of, longest_input, open_base
from harness.engine.local.encoders.classifier import BATCH
from harness.engine.local.loading import choose_device
from harness.engine.protocol import OpenSettings
from harness.engine.tfidf import LEAST_LOGPROB

Floats = npt.NDArray[np.float64]


class Embedder:
    """Mean states of texts; each text is computed once, since curves ask for the same ones again and again.

    Args:
        model: a base in evaluation mode on its device.
        tokenizer: its own.
        longest: tokens of an input; longer texts are cut.
    """

    def __init__(self, model: Any, tokenizer: Any, longest: int | None) -> None:
        self.model, self.tokenizer, self.longest = model, tokenizer, longest
        self._known: dict[Texts, tuple[npt.NDArray[np.float32], int]] = {}

    def embed(self, texts: Sequence[Texts]) -> tuple[Floats, npt.NDArray[np.int64], int]:
        """Vectors (texts, size), tokens of each, and the tokens computed now."""
        new = [one for one in dict.fromkeys(texts) if one not in self._known]
        computed = self._compute(new) if new else 0
        rows = [self._known[one] for one in texts]
        return np.stack([row for row, _ in rows]).astype(float), np.array([n for _, n in rows]), computed

    @torch.inference_mode()
    def _compute(self, texts: Sequence[Texts]) -> int:
        inputs = encoded(self.tokenizer, texts, self.longest)
        order = sorted(range(len(texts)), key=lambda row: -len(inputs[row]["input_ids"]))
        computed = 0
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = self.tokenizer.pad([inputs[row] for row in rows], return_tensors="pt").to(self.model.device)
            states = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None].float()
            means = ((states * mask).sum(1) / mask.sum(1).clamp_min(1)).cpu().numpy()
            computed += int(batch["input_ids"].numel())
            for row, mean in zip(rows, means, strict=True):
                self._known[texts[row]] = mean, len(inputs[row]["input_ids"])
        return computed


class Probe(LoadedClassifier):
    """A fitted regression on an embedder's vectors."""

    def __init__(self, embedder: Embedder, fitted: Any, n_classes: int) -> None:
        self.embedder, self.fitted, self.n_classes = embedder, fitted, n_classes
        self.facts = facts_of(embedder.model)

    def classify(self, texts: Sequence[Texts]) -> Classes:
        """See `LoadedClassifier.classify`."""
        vectors, n_tokens, computed = self.embedder.embed(texts)
        logprobs = np.full((len(texts), self.n_classes), LEAST_LOGPROB)
        found = self.fitted.predict_proba(vectors)
        logprobs[:, self.fitted.classes_] = np.log(np.maximum(found, np.exp(LEAST_LOGPROB)))
        return Classes(logprobs, n_tokens, computed)


class ProbeLearner(Learner):
    """Fits one regression per lesson.

    Args:
        embedder: of the base.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self.facts = facts_of(embedder.model)

    def learn(self, lesson: Lesson) -> Probe:
        """See `Learner.learn`; learns from all examples."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        vectors, _, _ = self.embedder.embed([example.texts for example in lesson.examples])
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        fitted.fit(vectors, [example.gold for example in lesson.examples])
        return Probe(self.embedder, fitted, lesson.n_classes)


def open_probe(base: ModelEntry, settings: OpenSettings) -> ProbeLearner:
    """Load a base.

    Raises:
        ModelError: it does not load, or a part of it would be random.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    model, tokenizer = open_base(base, AutoModel)
    model = model.eval().to(choose_device(base.device))
    return ProbeLearner(Embedder(model, tokenizer, longest_input(model, tokenizer, base.max_length)))
