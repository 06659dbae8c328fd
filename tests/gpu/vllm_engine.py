"""vLLM in this process, where it is installed: the log-probabilities of one-token labels on the lecture's grid."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.bench.models import model_folder
from tests.gpu.device import DEVICE, SIZES, free_memory, now
from tests.gpu.large import LONGEST
from tests.gpu.served import Grid, grid_with_our_scores
from tests.gpu.steps import Note, SkippedError

SETTINGS = {
    "enable_prefix_caching": True,
    "max_num_seqs": 1024,
    "max_num_batched_tokens": 16384,
    "max_model_len": LONGEST,
}
MOST_LABELS = 128
"""Tokens whose log-probabilities it gives besides the most likely ones."""


def compare_vllm(note: Note) -> None:
    """All prompts in one call, sorted so that neighbours share prefixes, with its cache of prefixes empty."""
    dtype = str(SIZES.dtype).removeprefix("torch.")
    with model_folder(SIZES.neox, dtype, DEVICE.type) as folder:
        grid = grid_with_our_scores(folder, dtype)
        free_memory()
        from vllm import LLM

        llm = LLM(model=str(folder), dtype=dtype, **SETTINGS)
        warm = [[token + 1 for token in context] for context in grid.contexts[: SETTINGS["max_num_seqs"]]]
        label_logprobs(llm, warm, grid.labels[: len(warm)])
        llm.reset_prefix_cache()
        started = now()
        found = label_logprobs(llm, grid.contexts, grid.labels)
        seconds = now() - started
    report(note, grid, found, seconds)


def label_logprobs(llm: Any, contexts: list[list[int]], labels: list[list[int]]) -> np.ndarray:
    """Log-probability of each label's token after each prompt, `(n_prompts, n_labels)`, nats."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    order = sorted(range(len(contexts)), key=lambda i: contexts[i])
    if max(len(set(row)) for row in labels) > MOST_LABELS:
        raise SkippedError(f"vLLM gives the log-probabilities of at most {MOST_LABELS} tokens")
    parameters = [
        SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=labels[i], detokenize=False, flat_logprobs=True)
        for i in order
    ]
    prompts = [TokensPrompt(prompt_token_ids=contexts[i]) for i in order]
    outputs = llm.generate(prompts, parameters, use_tqdm=False)
    found = np.empty((len(contexts), len(labels[0])))
    for i, output in zip(order, outputs, strict=True):
        after = output.outputs[0].logprobs[0]
        found[i] = [after[token].logprob for token in labels[i]]
    return found


def report(note: Note, grid: Grid, found: np.ndarray, seconds: float) -> None:
    """Speed beside this project's, and how far the answers are apart."""
    note("this project", {"prompts/s": len(grid.contexts) / grid.seconds})
    note("found", {"prompts/s": len(grid.contexts) / seconds, "behind": seconds / grid.seconds,
                   "largest difference": float(np.abs(found - grid.logprobs).max()),
                   "same prediction": float((found.argmax(1) == grid.logprobs.argmax(1)).mean())})  # fmt: skip
