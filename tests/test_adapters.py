"""LoRA adapters: scores are PEFT's own, with prefixes shared; adapters of other models and other kinds are refused."""

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
from tests.scoring import naive_scores

peft = pytest.importorskip("peft")
TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "qwen2": "all-linear",
    "gpt_neox": ["query_key_value", "dense_4h_to_h"],
    "gpt2": ["c_attn"],
}


def make_adapter(base, folder, targets, seed=0, **settings):
    """An adapter that changes scores by much."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **settings)
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.2)
    adapted.save_pretrained(folder)
    return adapted.eval()


@pytest.fixture(scope="module")
def adapters(model_folders, tmp_path_factory):
    """Model type to the adapter's folder and PEFT's model."""
    root = tmp_path_factory.mktemp("adapters")
    return {
        kind: (root / kind, make_adapter(model_folders[kind], root / kind, targets))
        for kind, targets in TARGETS.items()
    }


CONTEXTS = [[5, 6, 7, 8, *tail] for tail in ([9], [10, 11], [9, 12, 13], [14] * 20)]
LABELS = [[[20], [21, 22]]] * 4


@pytest.mark.parametrize("kind", TARGETS)
def test_log_probabilities_are_those_of_pefts_own_forward_pass(model_folders, adapters, kind):
    folder, adapted = adapters[kind]
    expected = naive_scores(adapted, CONTEXTS, LABELS)[0]
    spec = ModelSpec(str(model_folders[kind]), dtype="float32", device="cpu", adapter=str(folder))
    scorer, facts = load_engine(spec, True, 256, 40, 1)
    assert facts.shares_prefixes
    found = scorer.score(CONTEXTS, LABELS).logprobs
    assert np.abs(found - expected).max() < 1e-5
    plain, _ = load_engine(ModelSpec(str(model_folders[kind]), dtype="float32", device="cpu"), True, 256, 40, 1)
    assert np.abs(plain.score(CONTEXTS, LABELS).logprobs - expected).max() > 0.01, "the adapter matters"


def described(folder, adapter):
    return read_model_info(ModelEntry(str(folder), adapter=str(adapter)))


def test_an_adapter_is_part_of_what_a_model_is(model_folders, adapters, tmp_path):
    base, (folder, _) = model_folders["llama"], adapters["llama"]
    plain, info = read_model_info(ModelEntry(str(base))), described(base, folder)
    assert plain.identity != info.identity
    assert plain.quick_identity != info.quick_identity
    assert "adapter/adapter_model.safetensors" in info.told_identity
    assert (info.loaded["adapter"], info.loaded["adapted_modules"]) == (str(folder), 9)
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert described(base, moved).identity == info.identity
    make_adapter(base, moved, TARGETS["llama"], seed=1)
    assert described(base, moved).identity != info.identity


def altered(folder, tmp_path, **settings):
    copy = tmp_path / "altered"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    return copy


def test_adapters_that_do_not_belong_are_refused_before_anything_is_loaded(
    model_folders, adapters, tmp_path, make_model, monkeypatch
):
    base, folder = model_folders["llama"], adapters["llama"][0]

    def refused(adapter, model=base):
        with pytest.raises(ModelError) as raised:
            described(model, adapter)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "expected a folder with adapter_config.json" in refused(tmp_path / "nothing")
    assert "is missing or damaged" in refused(tmp_path)
    assert "of the type IA3, expected LORA" in refused(altered(folder, tmp_path, peft_type="IA3"))
    assert "belongs to another base model" in refused(adapters["gpt_neox"][0])
    wider = tmp_path / "wider"
    make_model("llama", hidden_size=128).save_pretrained(wider)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, wider / name)
    assert "q_proj 64x64 instead of 128x128" in refused(folder, wider)
    bins = tmp_path / "bins"
    shutil.copytree(folder, bins)
    (bins / "adapter_model.safetensors").rename(bins / "adapter_model.bin")
    assert "safe_serialization=True" in refused(bins)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'prompt-grid-harness[adapters]'" in refused(folder)


def test_an_adapter_of_more_layers_is_refused_when_it_is_merged(model_folders, adapters, tmp_path, make_model):
    """Its matrices that fit would be merged, and the rest passed over."""
    deep = tmp_path / "deep"
    make_model("llama", num_hidden_layers=5).save_pretrained(deep)
    make_adapter(deep, tmp_path / "adapter", TARGETS["llama"])
    spec = ModelSpec(str(model_folders["llama"]), dtype="float32", device="cpu", adapter=str(tmp_path / "adapter"))
    with pytest.raises(ModelError, match="fits this base model in part only"):
        load_engine(spec, True, 256, 40, 1)


def test_engines_that_take_no_adapter_refuse_it(model_folders, adapters):
    from harness.engine.registry import describe

    for engine in ("vllm", "server"):
        entry = ModelEntry(
            str(model_folders["llama"]),
            engine=engine,
            adapter=str(adapters["llama"][0]),
            base_url="http://localhost/v1",
        )
        with pytest.raises(ModelError, match=f"engine '{engine}' takes none"):
            describe(entry)
