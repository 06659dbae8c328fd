"""A model that loads is the checkpoint's, whole, made of numbers, and looks ahead at nothing."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from harness.config.schema import ModelEntry
from harness.core.errors import ModelError, NotFiniteError
from harness.engine.local.architectures import check_architecture
from harness.engine.local.generator import Generator
from harness.engine.local.loading import ModelSpec, load_model
from harness.engine.local.model_errors import loading_error
from harness.engine.local.model_info import read_model_info
from harness.engine.local.scorer import Scorer
from harness.engine.local.soundness import check_is_causal
from harness.running.driver import run
from harness.running.failures import check_usable
from tests.conftest import KO_TINY
from tests.models import random_model
from tests.scoring import random_grid


def load(folder, dtype="float32"):
    return load_model(ModelSpec(str(folder), dtype=dtype, device="cpu"))


def add_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(KO_TINY / name, folder / name)
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    """A random Llama's folder whose tensors and configuration a test changes."""

    def make(change=None, kind="llama", **config):
        folder = tmp_path / "model"
        random_model(kind).save_pretrained(folder)
        add_tokenizer(folder)
        if change is not None:
            file = folder / "model.safetensors"
            save_file(change(load_file(file)), file, metadata={"format": "pt"})
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | config))
        return folder

    return make


FAULTS = {
    "a layer's norm is missing": (
        lambda w: {k: v for k, v in w.items() if "layers.1.input_layernorm" not in k},
        ["1 tensor missing", "model.layers.1.input_layernorm.weight"],
    ),
    "the embedding is missing, and the head is not tied to it": (
        lambda w: {k: v for k, v in w.items() if "embed_tokens" not in k},
        ["model.embed_tokens.weight", "missing"],
    ),
    "names of data-parallel training": (
        lambda w: {f"module.{k}": v for k, v in w.items()},
        ["that the model does not have: module.", "take 'module.' off"],
    ),
    "a fourth layer that the configuration does not know": (
        lambda w: w | {k.replace("layers.2.", "layers.3."): v.clone() for k, v in w.items() if "layers.2." in k},
        ["9 tensors that the model does not have", "model.layers.3."],
    ),
    "an adapter's matrices among the weights": (
        lambda w: w | {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(4, 64)},
        ["lora_A", "merge the adapter"],
    ),
    "one matrix of another width": (
        lambda w: w | {"model.layers.0.mlp.up_proj.weight": torch.zeros(80, 64)},
        ["model.layers.0.mlp.up_proj.weight 80x64 instead of 96x64", "config.json"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_not_the_models_are_refused_by_name(checkpoint, fault):
    change, words = FAULTS[fault]
    folder = checkpoint(change)
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_a_tied_weight_that_is_nowhere_is_refused(checkpoint):
    folder = checkpoint(
        lambda w: {k: v for k, v in w.items() if k not in ("lm_head.weight", "model.embed_tokens.weight")},
        tie_word_embeddings=True,
    )
    with pytest.raises(ModelError, match=r"missing, which would be random.*embed_tokens"):
        load(folder)


def test_a_tied_head_and_buffers_of_older_versions_are_no_fault(checkpoint):
    def old(weights):
        kept = {k: v for k, v in weights.items() if k != "lm_head.weight"}
        return kept | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}

    model = load(checkpoint(old, tie_word_embeddings=True))
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


@pytest.mark.parametrize("kind", ["gpt_neox", "gpt2"])
def test_masks_that_older_checkpoints_store_are_no_fault(checkpoint, kind):
    name = {"gpt_neox": "gpt_neox.layers.0.attention.bias", "gpt2": "transformer.h.0.attn.bias"}[kind]
    load(checkpoint(lambda w: w | {name: torch.ones(1, 1, 8, 8)}, kind))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(checkpoint, value):
    def spoil(weights):
        weights["model.layers.2.mlp.down_proj.weight"][3, 4] = value
        return weights

    with pytest.raises(ModelError, match=r"NaN or infinite weights in float32: model\.layers\.2\.mlp\.down_proj"):
        load(checkpoint(spoil))


def test_weights_beyond_float16_name_the_number_format_that_helps(checkpoint):
    folder = checkpoint(lambda w: w | {"model.norm.weight": torch.full((64,), 1e5)})
    with pytest.raises(ModelError, match=r"in float16: model\.norm\.weight.*model\.dtype=bfloat16"):
        load(folder, "float16")
    load(folder, "bfloat16")


def test_activations_beyond_float16_are_found_when_the_model_is_loaded(checkpoint):
    def enlarge(weights):
        return {k: v * (3e3 if "down_proj" in k or "up_proj" in k else 1) for k, v in weights.items()}

    folder = checkpoint(enlarge)
    with pytest.raises(ModelError, match=r"logits are NaN or infinite in float16; set model\.dtype=bfloat16"):
        load(folder, "float16")
    load(folder, "float32")


class Poisoned:
    """Logits of a head that are no numbers once a token has been read."""

    def __init__(self, head, value):
        self.head, self.value, self.vocabulary = head, value, head.vocabulary

    def __call__(self, hidden):
        logits = self.head(hidden)
        logits[-1, :] = self.value
        return logits


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("share", [True, False])
def test_scores_that_are_no_numbers_are_an_error_with_its_remedy(random_models, value, share):
    contexts, labels = random_grid(seed=3)
    scorer = Scorer(random_models["llama"], 512, share)
    scorer.head = Poisoned(scorer.head, value)
    with pytest.raises(NotFiniteError, match=r"prompts are NaN or infinite in float32; its weights are damaged"):
        scorer.score(contexts, labels)


@pytest.mark.parametrize("share", [True, False])
def test_answers_out_of_logits_that_are_no_numbers_are_an_error(make_model, share):
    model = make_model("qwen2")
    with torch.no_grad():
        model.lm_head.weight[:] = float("nan")
    contexts = random_grid(seed=3)[0]
    with pytest.raises(NotFiniteError, match="NaN or infinite"):
        Generator(Scorer(model, 512, share)).generate(contexts, 3, lambda generated: False)


def test_one_sample_without_numbers_fails_by_itself(make_config, tmp_path, model_folders):
    """A token whose embedding is too large for float32's sums spoils the prompts that hold it."""
    folder = tmp_path / "model"
    shutil.copytree(model_folders["gpt_neox"], folder)
    config = make_config(
        model={"path": str(folder), "dtype": "float32"}, out=str(tmp_path), task={"limit": 12},
        grid={"templates": ["english"], "k": [0], "seeds": [1]},
    )  # fmt: skip
    from harness.planning.preparation import prepare

    prepared = prepare(config)
    prompts = prepared.renderer(prepared.models[0], "english", 1).prompts(prepared.data.samples, 1, [0])
    seen = [set(prompt.ids) for prompt in prompts]
    own = next(t for t in seen[5] if sum(t in ids for ids in seen) == 1)
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if "embed_in" in n)
    weights[name][own] = 3e38
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    from harness.api import load_records

    run(config)
    records = load_records(config.run_dir).set_index("sample_id")
    failed = records[records.error.notna()]
    assert list(failed.index) == [prompts[5].sample.id]
    assert failed.error_type.tolist() == ["NotFiniteError"]
    assert "take another checkpoint" in failed.error.iloc[0]


def test_a_model_that_scores_nothing_ends_the_run_at_its_first_unit():
    text = "log-probabilities of 1 of 1 prompts are NaN or infinite in float16; set model.dtype=bfloat16 or float32"
    with pytest.raises(ModelError, match=r"all 3 records of its first unit fail: .*model\.dtype=bfloat16"):
        check_usable("m", [("NotFiniteError", text)] * 3, 3)
    check_usable("m", [("NotFiniteError", text)] * 2, 3)
    check_usable("m", [("NotFiniteError", text)] * 2 + [("ContextError", "too long")], 3)
    check_usable("m", [], 0)


def test_a_run_whose_every_score_is_no_number_ends_with_the_remedy(make_config, tmp_path, monkeypatch):
    config = make_config(out=str(tmp_path), task={"limit": 4}, grid={"templates": ["english"], "k": [0], "seeds": [1]})

    def nothing(self, prepared):
        raise NotFiniteError("log-probabilities are NaN in float16; set model.dtype=bfloat16 or float32")

    monkeypatch.setattr(Scorer, "compute", nothing)
    with pytest.raises(ModelError, match=r"scores nothing.*set model\.dtype=bfloat16"):
        run(config)


SMALL = {"vocab_size": 4096, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
BART = {
    "vocab_size": 4096, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 128,
}  # fmt: skip
T5 = {"vocab_size": 4096, "d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2}
OTHER_KINDS = {
    "roberta": (AutoModelForMaskedLM, {**SMALL, "intermediate_size": 64}, "RobertaForMaskedLM"),
    "electra": (AutoModelForMaskedLM, {**SMALL, "intermediate_size": 64}, "ElectraForMaskedLM"),
    "bart": (AutoModelForSeq2SeqLM, BART, "an encoder and a decoder"),
    "t5": (AutoModelForSeq2SeqLM, T5, "an encoder and a decoder"),
    "xlm-roberta": (AutoModel, {**SMALL, "intermediate_size": 64}, "reads in both directions"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_models_that_are_no_causal_language_models_are_refused_before_loading(tmp_path, kind):
    maker, settings, words = OTHER_KINDS[kind]
    maker.from_config(AutoConfig.for_model(kind, **settings)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=words) as caught:
        read_model_info(ModelEntry(str(add_tokenizer(tmp_path))))
    assert "expected a causal language model" in str(caught.value)
    with pytest.raises(ModelError, match=words):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["whisper", "mbart", "marian"])
def test_configurations_of_encoder_decoders_are_refused(kind):
    with pytest.raises(ModelError, match="an encoder and a decoder"):
        check_architecture("m", AutoConfig.for_model(kind))


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "mamba", "bloom", "opt", "gemma2", "cohere", "phi3"])
def test_decoders_pass_by_their_configuration(kind):
    check_architecture("m", AutoConfig.for_model(kind))
    check_architecture("m", AutoConfig.for_model("bert", is_decoder=True, architectures=["BertLMHeadModel"]))


LOOKING_AHEAD = {
    "bert": {**SMALL, "intermediate_size": 64},
    "roberta": {**SMALL, "intermediate_size": 64, "max_position_embeddings": 128},
    "electra": {**SMALL, "intermediate_size": 64},
    "xlnet": {"vocab_size": 4096, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 64},
}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, torch.float32) for kind in LOOKING_AHEAD), ("bert", torch.bfloat16), ("electra", torch.bfloat16)],
)
def test_a_later_token_that_changes_an_earlier_row_is_found(kind, dtype):
    """Whatever the configuration says: these have a causal class, and attend in both directions."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, initializer_range=0.2, **LOOKING_AHEAD[kind])
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with pytest.raises(ModelError, match="a later token changes the logits of earlier ones"):
        check_is_causal("m", model)


@pytest.mark.parametrize("kind", ["gpt_neox", "llama", "qwen2", "qwen3", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_decoder_is_taken_for_looking_ahead(kind, dtype):
    check_is_causal("m", random_model(kind).to(dtype))


MESSAGES = {
    "contains custom code which must be executed to correctly load the model. Please pass the argument "
    "`trust_remote_code=True` to allow custom code to be run.": "model.trust_remote_code=true",
    "FlashAttention2 has been toggled on, but it cannot be used due to the following error: the package for "
    "FlashAttention2 doesn't seem to be installed.": "attn_implementation",
    "This modeling file requires the following packages that were not found in your environment: einops. Run "
    "`pip install einops`": "pip install einops",
    "Loading a GPTQ quantized model requires optimum (`pip install optimum`)": "pip install optimum",
    "No module named 'mamba_ssm.ops'": "pip install mamba_ssm",
    "`tiktoken` is required to read a `tiktoken` file. Install it with `pip install tiktoken`.": "pip install tiktoken",
    "data did not match any variant of untagged enum ModelUntagged at line 1 column 22350": "install a newer one",
    "The checkpoint you are trying to load has model type `foo` but Transformers does not recognize this architecture. "
    "You can update Transformers with the command `pip install --upgrade transformers`": "install a newer transformers",
    "We couldn't connect to 'https://huggingface.co' to load the files": "HF_HUB_OFFLINE",
    "Access to model x is restricted. You must be authenticated (401)": "hf auth login",
    "Expecting value: line 1 column 7 (char 6)": "copy or download the model again",
}  # fmt: skip


@pytest.mark.parametrize("said", MESSAGES)
@pytest.mark.parametrize("padding", [0, 2000])
def test_a_loading_error_ends_in_the_setting_that_helps(said, padding):
    reason = f"{'The repository is long-winded. ' * (padding // 31)}{said}"
    error = str(loading_error("m", "weights", OSError(reason)))
    assert MESSAGES[said] in error.rsplit("; ", 2)[-1] or MESSAGES[said] in error[-250:]
    assert len(error) < 700


def test_custom_code_in_a_folder_is_told_by_its_setting(checkpoint):
    folder = checkpoint(model_type="nobody", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"})
    for fails in (lambda: read_model_info(ModelEntry(str(folder))), lambda: load(folder)):
        with pytest.raises(ModelError, match=r"set model\.trust_remote_code=true if you trust it$"):
            fails()
