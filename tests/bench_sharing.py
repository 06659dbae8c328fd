"""How much faster shared prefixes are: the same prompts with and without, in one run.

    make bench

Scores 200 samples x 2 templates x K in 0,1,2,4,8,16,32 x 2 seeds with fixed demonstrations
and the embedded model, float32, and prints prompts per second, the ratio, computed against
unique tokens, and the largest difference of log-probabilities.
"""

from __future__ import annotations

import time

import numpy as np

from harness.config import load_config
from harness.engine.loading import ModelSpec, load_model
from harness.engine.scorer import Scorer
from harness.prefixes import count_unique_tokens
from harness.preparation import prepare

OVERRIDES = ["task.limit=200", "grid.templates=[lecture_1,lecture_2]", "grid.k=[0,1,2,4,8,16,32]", "grid.seeds=[1,2]"]


def main() -> None:
    config = load_config("configs/demo.yaml", OVERRIDES)
    prepared = prepare(config)
    setup = prepared.models[0]
    model = load_model(ModelSpec(setup.info.path, dtype="float32", device="cpu"))
    seconds = {True: 0.0, False: 0.0}
    prompts_seen = one_pass = unique = computed = 0
    largest, flips = 0.0, 0
    for template in config.grid.templates:
        for seed in config.grid.seeds:
            prompts = prepared.renderer(setup, template, seed).prompts(prepared.data.samples, seed, config.grid.k)
            contexts, labels = [p.ids for p in prompts], [p.label_ids for p in prompts]
            scores = {}
            for share in (True, False):
                scorer = Scorer(model, 2048, share)
                started = time.perf_counter()
                scores[share] = scorer.score(contexts, labels)
                seconds[share] += time.perf_counter() - started
            prompts_seen += len(prompts)
            one_pass += sum(map(len, contexts))
            unique += count_unique_tokens(contexts)
            computed += scores[True].tokens_computed
            largest = max(largest, float(np.abs(scores[True].logprobs - scores[False].logprobs).max()))
            flips += int((scores[True].logprobs.argmax(1) != scores[False].logprobs.argmax(1)).sum())
    print(f"{prompts_seen:,} prompts, {one_pass:,} tokens as one pass per prompt, {unique:,} unique")
    print(f"computed {computed:,} tokens: {computed / unique:.3f} x unique")
    for share in (True, False):
        name = "shared prefixes" if share else "every prompt by itself"
        print(f"{name}: {prompts_seen / seconds[share]:,.0f} prompts/s ({seconds[share]:.1f} s)")
    print(f"ratio: {seconds[False] / seconds[True]:.1f} x")
    print(f"largest log-probability difference {largest:.2g}, {flips} predictions differ")


if __name__ == "__main__":
    main()
