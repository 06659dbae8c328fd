"""GGUF files: scores are those of the model that transformers dequantises, and what cannot be read is said."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from harness.config.schema import ModelEntry
from harness.core.errors import ModelError
from harness.engine.local.loading import ModelSpec
from harness.engine.local.model_info import read_model_info
from harness.engine.local.opening import load_engine
from tests.conftest import KO_TINY
from tests.models import random_model
from tests.scoring import naive_scores
from tests.servers.running import SMALL, config, records

gguf = pytest.importorskip("gguf")
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
}  # fmt: skip
"""Modules of Qwen2 to their names in GGUF files."""


def write_gguf(path, model, kind):
    """A random Qwen2 with the embedded tokenizer, its matrices quantised."""
    settings = model.config
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_name("tiny")
    writer.add_block_count(settings.num_hidden_layers)
    writer.add_context_length(settings.max_position_embeddings)
    writer.add_embedding_length(settings.hidden_size)
    writer.add_feed_forward_length(settings.intermediate_size)
    writer.add_head_count(settings.num_attention_heads)
    writer.add_head_count_kv(settings.num_key_value_heads)
    writer.add_layer_norm_rms_eps(settings.rms_norm_eps)
    writer.add_rope_freq_base(settings.rope_parameters["rope_theta"])
    tokenizer = json.loads((KO_TINY / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(merges)
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    for name, tensor in model.state_dict().items():
        for module, short in NAMES.items():
            name = name.replace(f"{module}.", f"{short}.")
        name = name.replace("model.layers.", "blk.")
        array = tensor.numpy().astype(np.float32)
        if array.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    write_gguf(path, random_model("qwen2", tie_word_embeddings=False), gguf.GGMLQuantizationType.Q8_0)
    return path


CONTEXTS = [[5, 6, 7, 8, *tail] for tail in ([9], [10, 11], [9, 12, 13], [14] * 20)]
LABELS = [[[20], [21, 22]]] * 4


def test_scores_are_those_of_the_model_that_transformers_dequantises(file):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    expected = naive_scores(plain, CONTEXTS, LABELS)[0]
    scorer, facts = load_engine(ModelSpec(str(file), dtype="float32", device="cpu"), True, 256, 40, 1)
    assert facts.shares_prefixes
    assert np.abs(scorer.score(CONTEXTS, LABELS).logprobs - expected).max() < 1e-5
    unquantised = naive_scores(random_model("qwen2", tie_word_embeddings=False), CONTEXTS, LABELS)[0]
    assert 1e-4 < np.abs(unquantised - expected).max() < 1, "it is the quantised model, and no other one"


def test_a_grid_runs_on_a_file(file, tmp_path):
    from harness import run

    found = records(run(config(tmp_path, "gguf", f"model.path={file}", *SMALL)).run_dir)
    assert found["error"].isna().all()


def test_a_file_is_known_by_its_content(file, tmp_path):
    info = read_model_info(ModelEntry(str(file)))
    assert list(info.hashes) == [file.name]
    assert info.parameters == sum(p.numel() for p in random_model("qwen2", tie_word_embeddings=False).parameters())
    shutil.copy(file, tmp_path / file.name)
    (tmp_path / "config.json").write_text("{}")
    assert read_model_info(ModelEntry(str(tmp_path / file.name))).identity == info.identity
    other = tmp_path / "other"
    other.mkdir()
    write_gguf(
        other / file.name, random_model("qwen2", seed=1, tie_word_embeddings=False), gguf.GGMLQuantizationType.Q8_0
    )
    assert read_model_info(ModelEntry(str(other / file.name))).identity != info.identity


def test_what_cannot_be_read_is_said(file, tmp_path, monkeypatch):
    def refused(path):
        with pytest.raises(ModelError) as raised:
            read_model_info(ModelEntry(str(path)))
        assert "\n" not in str(raised.value)
        return str(raised.value)

    part = tmp_path / "tiny-00001-of-00002.gguf"
    shutil.copy(file, part)
    assert "join them first" in refused(part)
    short = tmp_path / "short.gguf"
    short.write_bytes(file.read_bytes()[:1000])
    assert "copy or download it again" in refused(short)
    (tmp_path / "folder").mkdir()
    assert "no model folder" in refused(tmp_path / "none.gguf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'prompt-grid-harness[gguf]'" in refused(file)
