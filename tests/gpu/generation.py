"""Whether every kernel generates what transformers' own `generate` does, but for near ties."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import torch

from harness.engine.local.attention.choice import shape_of
from harness.engine.local.generator import Generator
from harness.engine.local.scorer import Scorer
from tests.gpu.device import DEVICE, SIZES
from tests.gpu.kernels import kernels_for, trying
from tests.gpu.parity import SETTINGS, TOKENS_PER_PACK
from tests.gpu.steps import Note, WrongError
from tests.models import random_model
from tests.scoring import random_grid

DTYPES = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Where two answers part, their tokens' logits in float32 may differ by this share of the logits' spread."""
MOST_PROMPTS = 24


def answers_of_transformers(note: Note) -> None:
    """Greedy answers of both families with every kernel."""
    contexts = [list(c) for c in random_grid(9, n_queries=max(1, SIZES.grid // 5))[0]][:MOST_PROMPTS]
    wrong: list[str] = []
    for kind, settings in SETTINGS.items():
        exact = random_model(kind, 0, DEVICE, **settings)
        for dtype, allowed in DTYPES.items():
            model = random_model(kind, 0, DEVICE, **settings).to(dtype)
            model.generation_config.eos_token_id = model.config.eos_token_id = None
            expected = [greedy_answer(model, context, SIZES.new_tokens) for context in contexts]
            for name, kernel in kernels_for(dtype, shape_of(model).head_size, TOKENS_PER_PACK).items():
                place = f"{kind} {str(dtype).removeprefix('torch.')} {name}"
                if isinstance(kernel, str):
                    note(place, kernel)
                    continue
                with trying(note, place, wrong):
                    scorer = Scorer(model, TOKENS_PER_PACK, True, kernel)
                    found = Generator(scorer).generate(contexts, SIZES.new_tokens, lambda tokens: False).tokens
                    gaps = [_gap(exact, *both) for both in zip(contexts, found, expected, strict=True)]
                    note(place, {"equal": gaps.count(0.0), "of": len(gaps), "largest gap": max(gaps)})
                    if max(gaps) > allowed:
                        wrong.append(f"{place}: answers part where logits differ by {max(gaps):.2g} of their spread")
    if wrong:
        raise WrongError("; ".join(wrong))


def greedy_answer(model: Any, context: list[int], new_tokens: int) -> list[int]:
    """transformers' greedy answer to one prompt, on the model's device."""
    model.set_attn_implementation("sdpa")
    ids = torch.tensor([context], device=DEVICE)
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
    )
    answer: list[int] = output[0, len(context) :].tolist()
    return answer


@torch.inference_mode()
def _gap(exact: Any, context: list[int], found: list[int], expected: list[int]) -> float:
    """How far apart, as a share of all logits' spread, the first two different tokens are in float32; 0 for equal."""
    if found == expected:
        return 0.0
    common = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(found, expected, strict=False))))
    if common == min(len(found), len(expected)):
        return float("inf")
    ids = torch.tensor([[*context, *expected[:common]]], device=DEVICE)
    logits = exact(ids).logits[0, -1]
    return float((logits[expected[common]] - logits[found[common]]).abs() / logits.std())
