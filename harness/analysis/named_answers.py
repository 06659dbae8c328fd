"""Figures of written answers by name (`scoring.metrics`), worked out from stored answers.

They are views: a finished run gets them without computing anything again. Refuses to know where records lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.intervals import mean_interval
from harness.analysis.table import cluster_codes
from harness.core.errors import ConfigError
from harness.core.numerals import numbers_in
from harness.core.patterns import found_in

AnswerFigure = Callable[[str, Sequence[str]], float]
"""From an answer and the right ones to a value from 0 to 1; the best over the right ones counts."""
KEY = "scoring.extract"
NOT_FOUND = "not_found_share"
"""Of the answers, those in which `scoring.extract` finds nothing."""
COLUMNS = ["sample_id", "answer", "answer_values"]
"""What these figures need of the records."""


def chrf(answer: str, golds: Sequence[str]) -> float:
    """chrF of sacrebleu (Popovic 2015) with its defaults, of one answer; 0 to 1."""
    return float(_sacrebleu().sentence_score(answer, list(golds)).score) / 100


@cache
def _sacrebleu() -> Any:
    try:
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise ConfigError(
            "scoring.metrics names chrf, which needs sacrebleu; install it with pip install "
            "'prompt-grid-harness[metrics]'"
        ) from None
    return CHRF()


def rouge_l(answer: str, golds: Sequence[str]) -> float:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of words, words being what white space parts."""
    words = answer.split()
    return max(_common_f1(words, gold.split()) for gold in golds)


def _common_f1(words: Sequence[str], gold: Sequence[str]) -> float:
    if not words or not gold:
        return 0.0
    lengths = [0] * (len(gold) + 1)
    for word in words:
        before = 0
        for place, other in enumerate(gold, 1):
            above = lengths[place]
            lengths[place] = before + 1 if word == other else max(above, lengths[place - 1])
            before = above
    common = lengths[-1]
    return 2 * common / (len(words) + len(gold))


def same_text(answer: str, golds: Sequence[str]) -> float:
    """1 where the answer is a right one, white space aside."""
    return float("".join(answer.split()) in {"".join(gold.split()) for gold in golds})


def same_number(answer: str, golds: Sequence[str]) -> float:
    """1 where the last number of the answer equals that of a right one, however both are written: 1,000 is
    1000.0, and 1/2 is .5."""
    found = last_number(answer)
    return float(found is not None and found in {last_number(gold) for gold in golds})


def last_number(text: str) -> Fraction | None:
    """The last number of a text; None where there is none."""
    found = numbers_in(text)
    return found[-1] if found else None


ANSWER_METRICS: Mapping[str, AnswerFigure] = {
    "chrf": chrf,
    "rouge_l": rouge_l,
    "same_text": same_text,
    "same_number": same_number,
}
"""Names for tasks whose answers are written."""


def extracted(answers: Sequence[str], pattern: str | None) -> list[str]:
    """What a pattern finds last in each answer: its first group, or all of it where it has none; nothing where none is.

    Args:
        answers: as they were cleaned.
        pattern: regular expression; None takes the answers as they are.

    Raises:
        ConfigError: the pattern is none, or takes too long.
    """
    return list(answers) if pattern is None else [_last(found) for found in found_in(answers, pattern, KEY)]


def _last(found: Sequence[str]) -> str:
    return found[-1].strip() if found else ""


class NamedAnswers:
    """Further figures of cells of written answers.

    Args:
        names: of `ANSWER_METRICS`.
        golds: sample id to its right answers.
        clusters: sample id to cluster; an empty text stands for none.
        pattern: what of an answer counts, see `extracted`.
    """

    def __init__(
        self,
        names: Sequence[str],
        golds: Mapping[str, Sequence[str]],
        clusters: Mapping[str, str],
        pattern: str | None = None,
    ) -> None:
        self.names, self.golds, self.clusters, self.pattern = names, golds, clusters, pattern

    def figures(self, cell: pd.DataFrame) -> dict[str, float]:
        """The mean of each metric with `_low` and `_high`; failed samples are left out.

        Args:
            cell: the records of one cell, with `COLUMNS`.
        """
        scored = cell[cell["answer_values"].notna()]
        ids = scored["sample_id"].astype(str).tolist()
        codes = cluster_codes(ids, self.clusters)
        answers = scored["answer"].astype(str).tolist()
        found: dict[str, float] = {}
        if self.pattern is not None and self.names and answers:
            finds = found_in(answers, self.pattern, KEY)
            found[NOT_FOUND] = float(np.mean([not one for one in finds]))
            answers = [_last(one) for one in finds]
        for name in self.names:
            figure = ANSWER_METRICS[name]
            values = [figure(answer, self.golds[i]) for answer, i in zip(answers, ids, strict=True)]
            mean = mean_interval(np.asarray(values, dtype=float), codes)
            found |= {name: mean.value, f"{name}_low": mean.low, f"{name}_high": mean.high}
        return found
