"""The models: the embedded one, and GPT-NeoX shapes with random weights."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

REPO = Path(__file__).resolve().parents[2]
EMBEDDED = REPO / "data_in" / "models" / "ko-tiny"


@dataclass(frozen=True)
class Shape:
    """A GPT-NeoX with random weights."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    rotary: float = 0.25


SHAPES = {
    "tiny": Shape(2, 64, 4, 4096),
    "40m": Shape(8, 512, 8, 16000),
    "160m": Shape(12, 768, 12, 50304),  # Pythia-160m
    "1.3b": Shape(24, 2048, 16, 30080, 0.5),  # polyglot-ko-1.3b
    "5.8b": Shape(28, 4096, 16, 30080),  # polyglot-ko-5.8b
}
NAMES = ("embedded", *SHAPES)


def neox_config(shape: Shape) -> Any:
    """The configuration of a GPT-NeoX for prompts of up to 2,048 tokens."""
    return AutoConfig.for_model(
        "gpt_neox",
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.hidden,
        max_position_embeddings=2048,
        rotary_pct=shape.rotary,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )


@contextmanager
def model_folder(name: str, dtype: str, device: str) -> Iterator[Path]:
    """A folder that `load_engine` reads: the embedded model's, or one with random weights for a while."""
    if name == "embedded":
        yield EMBEDDED
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(neox_config(SHAPES[name]), dtype=getattr(torch, dtype))
        model.save_pretrained(place)
        del model
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EMBEDDED / file, place)
        yield Path(place)
