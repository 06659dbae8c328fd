"""What models with large vocabularies cost: seconds to load beside transformers alone, the head's share of scoring.

python tests/measure_heads.py            # random weights in the shapes of public models, bfloat16; minutes
python tests/measure_heads.py --reviews 20 --models "Qwen3 0.6B"
python tests/measure_heads.py --dtypes float32 --models FOLDER      # a real model
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from harness.engine.local import collector as scorers
from harness.engine.local.layers.head import Head
from harness.engine.local.loading import ModelSpec
from harness.engine.local.opening import load_engine
from harness.prompts.rendering import Renderer
from harness.prompts.tokenizing import PromptTokenizer
from tests.bench.models import EMBEDDED
from tests.bench.workloads import SEED, make_workload

LONGEST = 512
KS = (0, 4)
MODELS = {
    "Llama 3.2 1B": ("llama", {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64}),
    "Qwen3 0.6B": ("qwen3", {
        "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}),
}  # fmt: skip
"""Architecture and sizes, from the models' published configurations."""


@contextmanager
def timed_head() -> Iterator[list[float]]:
    """Seconds of every call of a head, and of every sum over its logits, in the block."""
    seconds: list[float] = []

    def timing(function):
        def call(*arguments):
            started = time.perf_counter()
            result = function(*arguments)
            seconds.append(time.perf_counter() - started)
            return result

        return call

    with (
        mock.patch.object(Head, "__call__", timing(Head.__call__)),
        mock.patch.object(scorers, "log_sum_exp", timing(scorers.log_sum_exp)),
    ):
        yield seconds


@contextmanager
def folder_of(name: str, dtype: str) -> Iterator[str]:
    """A folder with the model: the one that is named, or random weights in the shape of a public model."""
    if name not in MODELS:
        yield name
        return
    kind, sizes = MODELS[name]
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, max_position_embeddings=2048, tie_word_embeddings=True, **sizes)
        AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)
        AutoTokenizer.from_pretrained(str(EMBEDDED)).save_pretrained(folder)
        yield folder


def measure(name: str, dtype: str, reviews: int) -> dict[str, float]:
    """One row: seconds, and shares of the second scoring's seconds."""
    with folder_of(name, dtype) as folder:
        started = time.perf_counter()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        alone = time.perf_counter() - started
        started = time.perf_counter()
        scorer, _ = load_engine(ModelSpec(folder, dtype=dtype, device="cpu"), True, None, LONGEST, None)
        ready = time.perf_counter() - started
    workload = make_workload("a", tokenizer, LONGEST, reviews, None)
    prompts = Renderer(workload.template, workload.draw, max(KS), PromptTokenizer(tokenizer)).prompts(
        workload.samples, SEED, KS
    )
    contexts, labels = [p.ids for p in prompts], [p.label_ids for p in prompts]
    scorer.score(contexts, labels)
    with timed_head() as seconds:
        started = time.perf_counter()
        scorer.score(contexts, labels)
        scoring = time.perf_counter() - started
    return {
        "vocabulary": scorer.model.get_input_embeddings().weight.shape[0],
        "transformers alone, s": alone,
        "engine ready, s": ready,
        "prompts/s": len(contexts) / scoring,
        "head": sum(seconds) / scoring,
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="separated by commas: of these, or folders")
    parser.add_argument("--dtypes", default="bfloat16")
    parser.add_argument("--reviews", type=int, default=60)
    options = parser.parse_args()
    print("| shape | number format | transformers alone, s | engine ready, s | prompts/s | head's share |")
    print("|---|---|---|---|---|---|")
    for name in options.models.split(","):
        for dtype in options.dtypes.split(","):
            row = measure(name, dtype, options.reviews)
            print(
                f"| {Path(name).name}, {row['vocabulary']:,.0f} tokens | {dtype} | {row['transformers alone, s']:.1f} |"
                f" {row['engine ready, s']:.1f} | {row['prompts/s']:.1f} | {row['head']:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
