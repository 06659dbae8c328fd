"""How fast prompts are rendered and tokenised, on one core, by style of tokenizer.

    make bench-rendering
    python tests/bench_rendering.py --model FOLDER    # a model's tokenizer besides

500 reviews on the lecture's grid (K 0 to 32, fixed demonstrations): NSMC beside the repository, else the embedded ones.
`joined` is a replica's first unit: prompts and labels from samples, nothing remembered but what the tokenizer's
vocabulary tells. `whole` is the same with segments never joined, of fewer reviews. Both count this process's seconds on
processors, the medians of alternating rounds. `chat` has the demonstrations as turns; the chat template runs in it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["RAYON_NUM_THREADS"] = "1"

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from harness.prompts.rendering import Renderer
from harness.prompts.templates import Template, read_templates
from harness.prompts.tokenizing import PromptTokenizer
from tasks.nsmc import TASK
from tests import test_boundaries as styles
from tests.bench.models import EMBEDDED
from tests.bench.workloads import LECTURE_K, SEED, Workload, make_workload

ROUNDS = 5
WHOLE_SAMPLES, CHAT_SAMPLES = 40, 60
STYLES = (styles.llama2_legacy, styles.llama2, styles.gemma, styles.metaspace_always, styles.unigram_metaspace)


def prompts_per_second(workload: Workload, template: Template, samples: int, join: bool) -> float:
    """Of one fresh tokenizer and renderer, after two samples."""
    tokenizer = PromptTokenizer(workload.tokenizer)
    if not join:
        tokenizer.distrust_segments()
    warm = Renderer(template, workload.draw, max(LECTURE_K), tokenizer)
    warm.prompts(workload.samples[-2:], SEED, LECTURE_K)
    renderer = Renderer(template, workload.draw, max(LECTURE_K), tokenizer)
    began = time.process_time()
    rendered = len(renderer.prompts(workload.samples[:samples], SEED, LECTURE_K))
    return rendered / (time.process_time() - began)


def measure(name: str, tokenizer: Any) -> None:
    """Print one row."""
    workload = make_workload("a", tokenizer, 2048, None, None)
    chat = read_templates(TASK.templates, TASK.class_names)["chat"]
    kinds = {"joined": (workload.template, len(workload.samples), True)}
    kinds["whole"] = (workload.template, WHOLE_SAMPLES, False)
    if getattr(tokenizer, "chat_template", None):
        kinds["chat, joined"] = (chat, CHAT_SAMPLES, True)
        kinds["chat, whole"] = (chat, CHAT_SAMPLES, False)
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, how in kinds.items():
            found[kind].append(prompts_per_second(workload, *how))
    cells = [f"{statistics.median(found[kind]):,.0f}" if kind in found else "" for kind in COLUMNS]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


COLUMNS = ("joined", "whole", "chat, joined", "chat, whole")


def with_turns(tokenizer: Any) -> Any:
    """The tokenizer with a chat template, where it has none."""
    if not tokenizer.chat_template:
        names = ["<turn>", "<end_of_turn>"]
        tokenizer.add_special_tokens({"additional_special_tokens": names})
        tokenizer.chat_template = styles.TURNS
    return tokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the styles, and a model's tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", default=[], help="a folder with a tokenizer")
    options = parser.parse_args(arguments)
    print(f"| prompts/s | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}", flush=True)
    measure("embedded model, byte-level", with_turns(AutoTokenizer.from_pretrained(str(EMBEDDED))))
    for make in STYLES:
        measure(make.__name__, with_turns(PreTrainedTokenizerFast(tokenizer_object=make(), bos_token="<s>")))
    for folder in options.model:
        measure(folder.name, with_turns(AutoTokenizer.from_pretrained(str(folder))))


if __name__ == "__main__":
    main()
