"""Which parts of the first and last layer are found, by watching one pass."""

import pytest
import torch

from harness.engine.local.layers.modules import find_parts
from harness.engine.local.parity import sharing_error
from tests.test_scorer import OTHERS

BY_TOKEN = {
    "gpt_neox": ["attention.query_key_value", "mlp"],
    "llama": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "qwen2": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "qwen3": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "gpt2": [],
}
AFTER_ATTENTION = {
    "gpt_neox": ["attention.dense", "mlp"],
    "llama": ["self_attn.o_proj", "mlp"],
    "qwen2": ["self_attn.o_proj", "mlp"],
    "qwen3": ["self_attn.o_proj", "mlp"],
    "gpt2": ["attn.c_proj", "mlp"],
}


OTHER_HEADS = {
    "vocab_size": 4096, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96,
    "num_attention_heads": 4, "num_key_value_heads": 4,
}  # fmt: skip


def layers_of(model):
    base = model.base_model
    return getattr(base, "layers", None) or base.h


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def names(parts, layer):
    known = {module: name for name, module in layer.named_modules()}
    return [known[part] for part in parts]


@pytest.mark.parametrize("kind", BY_TOKEN)
def test_known_models(random_models, kind):
    """GPT-2 adds positions to its embeddings: nothing of its first layer depends on the token alone."""
    model = random_models[kind]
    attention, before = model.config._attn_implementation, hooks(model)
    parts = find_parts(model)
    assert names(parts.by_token, layers_of(model)[0]) == BY_TOKEN[kind]
    assert names(parts.after_attention, layers_of(model)[-1]) == AFTER_ATTENTION[kind]
    assert model.config._attn_implementation == attention
    assert hooks(model) == before


def test_a_feed_forward_part_that_sees_attention_does_not_depend_on_the_token_alone(make_model):
    model = make_model("gpt_neox", use_parallel_residual=False)
    parts = find_parts(model)
    assert names(parts.by_token, layers_of(model)[0]) == ["attention.query_key_value"]
    assert names(parts.after_attention, layers_of(model)[-1]) == ["attention.dense", "mlp"]


def test_numbers_per_token(random_models):
    model = random_models["gpt_neox"]
    hidden = model.config.hidden_size
    assert list(find_parts(model).by_token.values()) == [3 * hidden, hidden]


def test_a_part_of_a_single_layer_is_taken_once(make_model):
    model = make_model("gpt_neox", num_hidden_layers=1)
    parts = find_parts(model)
    (layer,) = layers_of(model)
    assert names(parts.by_token, layer) == ["attention.query_key_value", "mlp"]
    assert names(parts.after_attention, layer) == ["attention.dense"]


def test_experts_are_computed_whole(make_model):
    """A part that holds weights other than linear maps is not looked into."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
    model = make_model("qwen3_moe", vocab_size=4096, hidden_size=64, num_hidden_layers=2, **heads, **experts)
    assert names(find_parts(model).after_attention, layers_of(model)[-1]) == ["self_attn.o_proj"]


def test_a_layer_whose_norms_have_no_weights_is_not_taken_whole(make_model):
    """OLMo's decoder layer holds linear maps alone, and ends after its attention."""
    model = make_model("olmo", **OTHER_HEADS)
    parts = find_parts(model)
    assert names(parts.after_attention, layers_of(model)[-1]) == ["self_attn.o_proj", "mlp"]
    assert names(parts.by_token, layers_of(model)[0]) == BY_TOKEN["llama"]
    assert sharing_error(model, 500) is None


def test_heads_of_values_may_have_another_size(make_model):
    """DeepSeek's latent attention."""
    sizes = {"q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12}
    model = make_model("deepseek_v3", **OTHER_HEADS, **sizes, first_k_dense_replace=2)
    assert names(find_parts(model).after_attention, layers_of(model)[-1]) == ["self_attn.o_proj", "mlp"]


def test_a_model_without_attention_has_no_part_after_it(make_model):
    assert find_parts(make_model("mamba", **OTHERS["mamba"])).after_attention == []


def test_layers_that_are_not_one_list_have_no_parts(random_models, monkeypatch):
    model = random_models["llama"]
    monkeypatch.setattr(model.config, "num_hidden_layers", 17)
    parts = find_parts(model)
    assert (parts.by_token, parts.after_attention) == ({}, [])


def test_hooks_are_gone_after_an_error(make_model):
    model = make_model("llama")
    attention = model.config._attn_implementation

    def fail(*args, **kwargs):
        raise RuntimeError("half way")

    handle = layers_of(model)[-1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="half way"):
        find_parts(model)
    handle.remove()
    assert model.config._attn_implementation == attention
    assert hooks(model) == 0
    assert model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 4096)
