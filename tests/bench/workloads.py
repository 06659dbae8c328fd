"""The workloads: which prompts are asked of a model."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config.schema import DemosConfig, TaskConfig
from harness.core.errors import DataError
from harness.core.task import Sample
from harness.core.task_data import load_data
from harness.prompts.demonstrations import Pool, PoolDraw
from harness.prompts.draws import draw_of
from harness.prompts.prompt import Prompt
from harness.prompts.rendering import Renderer
from harness.prompts.templates import Template, read_templates
from harness.prompts.tokenizing import PromptTokenizer
from tasks import nsmc
from tests.bench.models import REPO

SHARED = REPO.parent / "shared" / "data"
LECTURE_K = (0, 1, 2, 4, 8, 16, 32)
DEMONSTRATION_TOKENS = 25
SETS_PER_SAMPLE = 64 / 1000
NEW_TOKENS = 24
SEED = 1


@dataclass(frozen=True)
class Kind:
    """What a workload asks, before there are data and a tokenizer."""

    title: str
    samples: int
    policy: str = "fixed"
    ks: tuple[int, ...] = LECTURE_K
    new_tokens: int = 0


KINDS = {
    "a": Kind("lecture grid, fixed demonstrations", 500),
    "b": Kind("lecture grid, demonstrations drawn per sample", 500, "per_sample"),
    "c": Kind("lecture grid, 64 sets of demonstrations per 1,000 samples", 1000, "bank"),
    "d": Kind("K=10 alone, fixed demonstrations", 500, ks=(10,)),
    "d-drawn": Kind("K=10 alone, demonstrations drawn per sample", 500, "per_sample", ks=(10,)),
    "e": Kind(f"KorQuAD 1.0, {NEW_TOKENS} new tokens, K=0", 64, ks=(0,), new_tokens=NEW_TOKENS),
}


@dataclass(frozen=True)
class Workload:
    """Samples and all that turns them into prompts.

    Attributes:
        new_tokens: to generate per prompt; 0 where labels are compared.
    """

    letter: str
    title: str
    data: str
    samples: Sequence[Sample]
    ks: tuple[int, ...]
    new_tokens: int
    template: Template
    draw: PoolDraw
    tokenizer: Any

    def render(self) -> list[Prompt]:
        """All prompts, sample by sample, by a renderer that remembers nothing."""
        renderer = Renderer(self.template, self.draw, max(self.ks), PromptTokenizer(self.tokenizer))
        return renderer.prompts(self.samples, SEED, self.ks)


def make_workload(letter: str, tokenizer: Any, context: int, limit: int | None, data: Path | None) -> Workload:
    """One workload.

    Args:
        letter: of `KINDS`.
        tokenizer: the model's.
        context: the model's positions.
        limit: samples; None takes the kind's own number.
        data: folder with `nsmc` and `korquad1`; None takes `SHARED` where it is, else the embedded data.
    """
    kind = KINDS[letter]
    wanted = limit or kind.samples
    if kind.new_tokens:
        folder, source = _place(data, "korquad1", "KorQuAD_v1.0_dev.json", "korquad_demo", "questions")
        samples = _questions(folder / "KorQuAD_v1.0_dev.json", wanted, tokenizer, context - 200)
        template = read_templates(REPO / "tasks/templates/korquad.yaml", ())["context_question"]
        draw = PoolDraw(Pool((), 0, "context"), draw_of(DemosConfig(policy=kind.policy)))
    else:
        folder, source = _place(data, "nsmc", nsmc.TEST, "nsmc_demo", "reviews")
        found = load_data(nsmc.TASK, TaskConfig(data_dir=str(folder), limit=wanted, draw="lecture"))
        samples = found.samples
        template = read_templates(nsmc.TASK.templates, nsmc.TASK.class_names)["lecture_1"]
        encoded = PromptTokenizer(tokenizer).whole_batch(list(found.raw_pool_texts or ()))
        short = [s for s, ids in zip(found.pool, encoded, strict=True) if len(ids) <= DEMONSTRATION_TOKENS]
        pool = Pool(tuple(short), len(nsmc.TASK.class_names), found.length_field)
        bank_size = max(1, round(SETS_PER_SAMPLE * len(samples)))
        draw = PoolDraw(pool, draw_of(DemosConfig(policy=kind.policy, bank_size=bank_size)))
    return Workload(letter, kind.title, source, samples, kind.ks, kind.new_tokens, template, draw, tokenizer)


def _place(data: Path | None, folder: str, file: str, embedded: str, noun: str) -> tuple[Path, str]:
    real = (data or SHARED) / folder
    if data is not None and not (real / file).is_file():
        raise DataError(f"no file '{real / file}'; --data names a folder that holds nsmc/ and korquad1/")
    if (real / file).is_file():
        return real, {"nsmc": "NSMC", "korquad1": "KorQuAD 1.0"}[folder]
    return REPO / "data_in" / embedded, f"embedded {noun}"


def _questions(file: Path, wanted: int, tokenizer: Any, most_tokens: int) -> list[Sample]:
    """Questions on whole paragraphs, the paragraphs in a drawn order, those too long left out."""
    articles = json.loads(file.read_text(encoding="utf-8"))["data"]
    paragraphs = [(article["title"], p) for article in articles for p in article["paragraphs"]]
    random.Random(SEED).shuffle(paragraphs)
    samples: list[Sample] = []
    for title, paragraph in paragraphs:
        if len(samples) >= wanted:
            break
        text = paragraph["context"]
        if len(tokenizer(text)["input_ids"]) > most_tokens:
            continue
        for qa in paragraph["qas"]:
            fields = {"context": text, "question": qa["question"], "title": title}
            samples.append(Sample(str(qa["id"]), fields, answers=(qa["answers"][0]["text"],)))
    return samples[:wanted]
