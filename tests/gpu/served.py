"""The grid that other engines are compared on, with this project's scores and time, from a folder they can read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from harness.engine.local.loading import ModelSpec
from harness.engine.local.opening import load_engine
from harness.engine.local.tree.readouts import origins
from tests.gpu.device import DEVICE, SIZES, now
from tests.gpu.large import LONGEST
from tests.gpu.reviews import lecture_grid
from tests.gpu.steps import SkippedError


@dataclass(frozen=True)
class Grid:
    """Prompts as token ids.

    Attributes:
        labels: token of each label, for each prompt.
        forks: how many tokens of each prompt come before what is the review's own.
        logprobs: this project's, `(n_prompts, n_labels)`, nats.
        seconds: that they took from token ids.
    """

    contexts: list[list[int]]
    labels: list[list[int]]
    forks: list[int]
    logprobs: np.ndarray
    seconds: float


def grid_with_our_scores(folder: Path, dtype: str) -> Grid:
    """Score the grid with the model of a folder, and let go of the model.

    Raises:
        SkippedError: a label has several tokens, which the others do not score.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    prompts = lecture_grid(tokenizer, LONGEST, SIZES.reviews).render()
    contexts, labels = [p.ids for p in prompts], [p.label_ids for p in prompts]
    if any(len(ids) > 1 for row in labels for ids in row):
        raise SkippedError("a label has several tokens")
    spec = ModelSpec(str(folder), dtype=dtype, device=DEVICE.type)
    scorer, _ = load_engine(spec, True, SIZES.tokens_per_pack, LONGEST, None)
    may_share = origins(prompts)
    scorer.score(contexts[: len(contexts) // 2], labels[: len(contexts) // 2])
    started = now()
    scores = scorer.score(contexts, labels, may_share)
    seconds = now() - started
    return Grid(
        contexts, [[ids[0] for ids in row] for row in labels], [p.fork for p in prompts], scores.logprobs, seconds
    )
