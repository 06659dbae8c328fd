"""What of a model's folder is loaded is said; what would be passed over and change results is refused."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.config.schema import ModelEntry
from harness.core.errors import ModelError
from harness.engine.local.memory import least_parameters
from harness.engine.local.model_files import INDEX, SINGLE, read_header, read_model_files
from harness.engine.local.model_info import read_model_info
from harness.planning.report import make_report
from harness.results.store import RunStore
from harness.running.driver import run
from tests.conftest import KO_TINY


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded model."""
    copy = tmp_path / "model"
    shutil.copytree(KO_TINY, copy)
    return copy


def shard(folder, keep_single):
    """Write the weights again as two files and their index."""
    weights = load_file(folder / SINGLE)
    names = sorted(weights)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    if not keep_single:
        (folder / SINGLE).unlink()
    return folder


def test_a_plain_folder_has_nothing_to_say(folder):
    files = read_model_files(folder)
    assert ([f.name for f in files.weights], files.ignored, files.notes) == ([SINGLE], (), ())
    assert files.parameters == sum(t.numel() for t in load_file(folder / SINGLE).values())


def test_shards_are_loaded_by_their_index(folder):
    files = read_model_files(shard(folder, keep_single=False))
    assert [f.name for f in files.weights] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert files.notes == ()


BESIDE = {
    "consolidated.safetensors": b"x" * 2000,
    "pytorch_model.bin": b"x" * 2000,
    "model-q4_k_m.gguf": b"GGUF",
    "weights.pt": b"x",
    "tf_model.h5": b"x",
}


@pytest.mark.parametrize("name", BESIDE)
def test_other_weights_beside_those_that_are_loaded_are_named(folder, name):
    (folder / name).write_bytes(BESIDE[name])
    (note,) = read_model_files(folder).notes
    assert f"{SINGLE} is loaded; beside it and ignored: {name}" in note


def test_a_set_of_shards_beside_a_single_file_is_named_as_ignored(folder):
    (note,) = read_model_files(shard(folder, keep_single=True)).notes
    assert f"{SINGLE} is loaded" in note
    assert "model-00001-of-00002.safetensors, model-00002-of-00002.safetensors, " + INDEX in note


def test_shards_that_no_index_names_and_an_original_folder_are_named(folder):
    shard(folder, keep_single=False)
    save_file({"x": torch.zeros(2)}, folder / "model-00003-of-00003.safetensors")
    (folder / "original").mkdir()
    (note,) = read_model_files(folder).notes
    assert "ignored: model-00003-of-00003.safetensors, original/" in note


def test_states_of_training_are_no_weights(folder):
    for name in ("optimizer.bin", "training_args.bin", "rng_state_0.pth", "scheduler.pt"):
        (folder / name).write_bytes(b"x")
    assert read_model_files(folder).notes == ()


def test_plan_log_and_manifest_say_what_is_loaded(folder, make_config, tmp_path, caplog):
    (folder / "pytorch_model.bin").write_bytes(b"x")
    config = make_config(
        model={"path": str(folder)}, out=str(tmp_path), task={"limit": 4},
        grid={"templates": ["english"], "k": [0], "seeds": [1]},
    )  # fmt: skip
    assert any("ignored: pytorch_model.bin" in note for note in make_report(config).notes)
    with caplog.at_level("INFO"):
        run(config)
    assert any(f"loading {folder}: {SINGLE}, " in line for line in caplog.messages)
    manifest = RunStore(config.run_dir).read_json("manifest.json")
    assert manifest["weights"][str(folder)]["files"] == [SINGLE]
    assert manifest["weights"][str(folder)]["ignored"] == ["pytorch_model.bin"]
    assert any("ignored: pytorch_model.bin" in note for note in manifest["notes"])


def adapter_beside(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))


def weights_of_an_adapter_beside(folder):
    (folder / "adapter_model.safetensors").write_bytes(b"x")


def adapter_alone(folder):
    adapter_beside(folder)
    for name in ("config.json", SINGLE):
        (folder / name).unlink()


@pytest.mark.parametrize("make", [adapter_beside, weights_of_an_adapter_beside, adapter_alone])
def test_an_adapter_is_refused_with_the_way_to_merge_it(folder, make):
    make(folder)
    with pytest.raises(ModelError, match=r"holds an adapter.*merge_and_unload"):
        read_model_info(ModelEntry(str(folder)))


def test_an_adapter_in_a_folder_below_is_named(folder):
    (folder / "lora").mkdir()
    adapter_beside(folder / "lora")
    assert "ignored: lora/" in read_model_files(folder).notes[0]


WITHOUT = {
    "consolidated.00.pth": "its maker's own form|in their maker's own form",
    "model.gguf": "give the GGUF file itself as model.path",
    "pytorch_model.bin": "convert it to safetensors",
    "weights.safetensors": f"name one file {SINGLE}",
}


@pytest.mark.parametrize("name", WITHOUT)
def test_a_folder_with_other_weights_alone_is_refused_for_what_it_is(folder, name):
    (folder / SINGLE).unlink()
    (folder / name).write_bytes(b"x")
    with pytest.raises(ModelError, match=WITHOUT[name]) as caught:
        read_model_files(folder)
    assert f"found {name}" in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer.json", SINGLE, "config.json", "merges.txt"])
def test_a_pointer_of_git_lfs_is_told_as_one(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n")
    with pytest.raises(ModelError, match=rf"{name}' is a pointer of Git LFS.*git lfs pull"):
        read_model_info(ModelEntry(str(folder)))


def test_an_index_without_its_files_names_them(folder):
    shard(folder, keep_single=False)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"1 of 2 files that are not there: model-00002-of-00002"):
        read_model_files(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": 3}', "not json", '{"weight_map": {}}'])
def test_an_index_that_is_none_is_refused(folder, text):
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(text)
    with pytest.raises(ModelError, match="copy or download"):
        read_model_files(folder)


HEADERS = {
    "not json": b"\x10\0\0\0\0\0\0\0not json at all!",
    "a length beyond the file": b"\xff\xff\xff\xff\xff\xff\xff\x7f{}",
    "empty": b"",
    "a list": b"\x02\0\0\0\0\0\0\0[]",
    "a tensor without shape": b"\x20\0\0\0\0\0\0\0" + b'{"a":{"data_offsets":[0,4]}}    ',
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_broken_header_is_one_line(tmp_path, kind):
    file = tmp_path / "model.safetensors"
    file.write_bytes(HEADERS[kind])
    with pytest.raises(ModelError, match="is not a safetensors file"):
        read_header(file)


def test_weights_that_are_cut_short_are_told_before_they_are_loaded(folder):
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[:-1000])
    with pytest.raises(ModelError, match="is cut short"):
        read_model_files(folder)


WITHOUT_END = [
    {"num_hidden_layers": 10**6},
    {"vocab_size": 10**10},
    {"hidden_size": 2**22, "intermediate_size": 2**24},
    {"intermediate_size": 10**10},
    {"head_dim": 10**11},
]


@pytest.mark.parametrize("changes", WITHOUT_END, ids=str)
def test_a_configuration_of_terabytes_is_refused_with_the_figure_before_anything_is_allocated(
    folder, changes, make_config
):
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(
        ModelError, match=r"tells of at least [\d,]+ weights \([\d,]{5,}\.\d GiB in float32\), but"
    ) as e:
        make_report(make_config(model={"path": str(folder), "dtype": "float32"}))
    assert "\n" not in str(e.value) and str(folder) in str(e.value)


def test_a_configuration_of_more_layers_than_tensors_is_refused(folder, make_config):
    config = folder / "config.json"
    small = {"hidden_size": 4, "intermediate_size": 1, "num_attention_heads": 1, "num_hidden_layers": 10**6}
    config.write_text(json.dumps(json.loads(config.read_text()) | small))
    with pytest.raises(ModelError, match="tells of 1,000,000 layers, but its files hold 51 tensors"):
        read_model_info(ModelEntry(str(folder)))


REAL = {
    "Llama 3.1 8B": (8.03e9, (128256, 4096, 32, 32, None, 14336), {}),
    "Gemma 3 270M": (268e6, (262144, 640, 18, 4, 256, 2048), {}),
    "OPT 350M": (331e6, (50272, 1024, 24, 16, None, None), {"word_embed_proj_dim": 512, "ffn_dim": 4096}),
    "Mixtral 8x7B": (46.7e9, (32000, 4096, 32, 32, None, 14336), {"num_local_experts": 8}),
    "DeepSeek V3": (
        671e9, (129280, 7168, 61, 128, 64, 18432), {"n_routed_experts": 256, "moe_intermediate_size": 2048}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_models_have_no_fewer_weights_than_the_least(name):
    parameters, sizes, more = REAL[name]
    keys = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "intermediate_size")
    found = least_parameters(SimpleNamespace(**dict(zip(keys, sizes, strict=True)), **more))
    assert 0 < found < parameters
