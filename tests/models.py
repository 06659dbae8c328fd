"""Tiny causal language models with random weights, made where they will be used."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

COMMON = {"vocab_size": 4096, "max_position_embeddings": 2048, "initializer_range": 0.2, "hidden_size": 64}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
GQA = {**LAYERS, "num_key_value_heads": 2}
RANDOM_MODELS = {
    "gpt_neox": {**COMMON, **LAYERS, "num_hidden_layers": 3},
    "llama": {**COMMON, **GQA, "num_hidden_layers": 3},
    "qwen2": {**COMMON, **GQA},
    "qwen3": {**COMMON, **GQA, "head_dim": 32},
    "gpt2": {"vocab_size": 4096, "n_positions": 2048, "n_embd": 64, "n_layer": 2, "n_head": 4,
             "initializer_range": 0.2},
}  # fmt: skip
"""Model type to configuration; weights are large enough that attention decides the outcome."""


def random_model(kind, seed=0, device="cpu", dtype=torch.float32, **settings):
    """A causal language model of a type with random weights, in evaluation mode.

    The weights are drawn on the device: another device draws others.
    """
    config = AutoConfig.for_model(kind, **{**RANDOM_MODELS.get(kind, {}), **settings})
    torch.manual_seed(seed)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
