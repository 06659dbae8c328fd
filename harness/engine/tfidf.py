"""The learner `tfidf`: logistic regression on weighted character n-grams. Needs no GPU, no base and no tokenizer.

Characters rather than words, because Korean joins its particles to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.config.schema import ModelEntry
from harness.engine.classifying import Classes, LoadedClassifier, Texts
from harness.engine.learning import Learner, Lesson
from harness.engine.protocol import EngineFacts, ModelDescription, OpenSettings, Resources

LEAST_LOGPROB = -40.0
"""Of a class that no example had, so that it stays a finite number."""
JOINT = "\n"
"""Between the texts of a pair."""


class TfidfDescription(ModelDescription):
    """Nothing is loaded."""

    @property
    def resources(self) -> Resources:
        """Never a GPU."""
        return Resources("cpu", 0)


class Regression(LoadedClassifier):
    """A fitted pipeline of scikit-learn.

    Args:
        fitted: with `predict_proba`.
        n_classes: of the task; `fitted` knows those it has seen.
    """

    facts = EngineFacts("cpu", "float64")

    def __init__(self, fitted: Any, n_classes: int) -> None:
        self.fitted, self.n_classes = fitted, n_classes

    def classify(self, texts: Sequence[Texts]) -> Classes:
        """See `LoadedClassifier.classify`; no tokens are counted."""
        logprobs = np.full((len(texts), self.n_classes), LEAST_LOGPROB)
        found = self.fitted.predict_proba([JOINT.join(one) for one in texts])
        logprobs[:, self.fitted.classes_] = np.log(np.maximum(found, np.exp(LEAST_LOGPROB)))
        return Classes(logprobs, np.zeros(len(texts), dtype=np.int64), 0)


class TfidfLearner(Learner):
    """Fits one pipeline per lesson."""

    facts = EngineFacts("cpu", "float64")

    def learn(self, lesson: Lesson) -> Regression:
        """See `Learner.learn`; learns from all examples."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        pipeline = make_pipeline(
            TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True),
            LogisticRegression(C=10, max_iter=1000),
        )
        texts = [JOINT.join(example.texts) for example in lesson.examples]
        return Regression(pipeline.fit(texts, [example.gold for example in lesson.examples]), lesson.n_classes)


class TfidfEngine:
    """See `harness.engine.learning.LearnerEngine`."""

    needs_base = False

    def describe(self, base: ModelEntry) -> ModelDescription:
        """Nothing to look at."""
        return TfidfDescription(base, None)

    def open(self, base: ModelEntry, settings: OpenSettings) -> TfidfLearner:
        """Nothing to load."""
        return TfidfLearner()


ENGINE = TfidfEngine()
