"""transformers' own `generate_batch`: continuous batching whose requests share blocks of cached keys."""

from __future__ import annotations

import inspect
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from tests.gpu.device import CUDA, free_memory, now
from tests.gpu.steps import SkippedError

PAGES = (256, 16)
"""Its default, and one that shares more of a prefix."""
CPU_BLOCKS = 4096
"""Tokens of the cache where no GPU's memory tells how many."""


@dataclass(frozen=True)
class Batch:
    """What it took.

    Attributes:
        tokens: generated for each prompt.
        attention: implementation that it chose.
    """

    seconds: float
    tokens: list[list[int]]
    attention: str


def run_generate_batch(model: Any, contexts: Sequence[Sequence[int]], new_tokens: int, page: int) -> Batch:
    """Greedy answers to prompts in one call, timed without its start.

    Its manager, cache and CUDA graphs are made by a call before, with prompts of the same lengths and other
    tokens, so that nothing of the timed prompts is cached.

    Args:
        page: tokens of a page of the cache.

    Raises:
        SkippedError: this version of transformers has no such thing.
    """
    config = _config(page)
    settings = GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0, use_cache=True
    )
    rng = random.Random(0)
    vocabulary = model.config.get_text_config().vocab_size
    others = [[rng.randrange(1, vocabulary) for _ in context] for context in contexts]
    prompts = [list(context) for context in contexts]
    before = model.config._attn_implementation

    def generate(inputs: list[list[int]]) -> dict[str, Any]:
        answers: dict[str, Any] = model.generate_batch(
            inputs=inputs,
            generation_config=settings,
            continuous_batching_config=config,
            progress_bar=False,
            persistent_manager=True,
        )
        return answers

    model.set_attn_implementation("sdpa")
    try:
        generate(others)
        started = now()
        found = generate(prompts)
        seconds = now() - started
        attention = model.config._attn_implementation
    finally:
        model.destroy_cached_continuous_batching_manager()
        model.set_attn_implementation(before)
        free_memory()
    answers = list(found.values())
    failed = [answer.error for answer in answers if answer.error]
    if failed or len(answers) != len(prompts):
        raise RuntimeError(f"{len(prompts) - len(answers) + len(failed)} prompts have no answer: {failed[:1]}")
    return Batch(seconds, [list(answer.generated_tokens) for answer in answers], attention)


def _config(page: int) -> Any:
    """Its settings; a page was called a block up to transformers 5.17."""
    try:
        from transformers import ContinuousBatchingConfig
    except ImportError:
        raise SkippedError("this version of transformers has no ContinuousBatchingConfig") from None
    known = inspect.signature(ContinuousBatchingConfig).parameters
    name = "page_size" if "page_size" in known else "block_size"
    room = {} if CUDA else {"num_blocks": CPU_BLOCKS // page, "max_batch_tokens": 512}
    return ContinuousBatchingConfig(allow_block_sharing=True, **{name: page}, **room)
