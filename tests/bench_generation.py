"""How much faster shared prefixes make generated answers: three ways in one run.

    make bench

Answers the embedded questions with a random GPT-NeoX of 48M weights in float32, 24 tokens each:
with shared prefixes, in padded batches, and with transformers' `generate` one by one.
"""

from __future__ import annotations

import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from harness.config import load_config
from harness.engine.generator import Generator
from harness.engine.parity import sharing_error
from harness.engine.scorer import Scorer
from harness.preparation import prepare

NEW_TOKENS = 24
MODEL = {
    "vocab_size": 16000, "hidden_size": 512, "num_hidden_layers": 10, "num_attention_heads": 8,
    "intermediate_size": 2048, "max_position_embeddings": 4096, "initializer_range": 0.05,
}  # fmt: skip


def main() -> None:
    prepared = prepare(load_config("configs/korquad_demo.yaml"))
    renderer = prepared.renderer(prepared.models[0], "context_question", 1)
    contexts = [p.ids for p in renderer.prompts(prepared.data.samples, 1, [0])]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_neox", **MODEL), dtype=torch.float32).eval()
    assert sharing_error(model, 2000) is None
    naive = sum(map(len, contexts))
    print(f"{len(contexts)} questions, {naive:,} prompt tokens, {NEW_TOKENS} new tokens each")
    answers, seconds = {}, {}
    for name, share in (("shared prefixes", True), ("padded batches", False)):
        started = time.perf_counter()
        found = Generator(Scorer(model, 2048, share)).generate(contexts, NEW_TOKENS, lambda generated: False)
        seconds[name], answers[name] = time.perf_counter() - started, found.tokens
        print(f"{name}: {seconds[name]:.1f} s, {found.prompt_tokens_computed:,} prompt tokens computed")
    started = time.perf_counter()
    answers["one by one"] = []
    with torch.inference_mode():
        for context in contexts:
            ids = torch.tensor([context])
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
            )
            answers["one by one"].append(out[0, len(context) :].tolist())
    seconds["one by one"] = time.perf_counter() - started
    same = sum(a == b for a, b in zip(answers["shared prefixes"], answers["one by one"], strict=True))
    print(f"one by one: {seconds['one by one']:.1f} s; {same} of {len(contexts)} answers are the same")
    for name in ("padded batches", "one by one"):
        print(f"shared prefixes against {name}: {seconds[name] / seconds['shared prefixes']:.1f} x")


if __name__ == "__main__":
    main()
