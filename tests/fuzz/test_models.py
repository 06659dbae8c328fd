"""Anything at all in a model's folder: what is known of it before it is loaded, or one line."""

import json
import shutil
import struct
import warnings

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.config.schema import ModelEntry
from harness.core.errors import ModelError, UserError
from harness.core.foreign import PanicError, panics_as_errors
from harness.engine.local.adapters import read_adapter
from harness.engine.local.gguf_files import read_gguf_files
from harness.engine.local.model_files import read_header, read_model_files
from harness.engine.local.model_info import read_model_info
from harness.prompts.tokenizing import PromptTokenizer
from tests.conftest import KO_TINY
from tests.fuzz.inputs import VALUES, changed, damaged, one_line_at_most, place, share, written

HEADER = {
    "__metadata__": {"format": "pt"},
    "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "base_model.model.a.lora_A.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [24, 48]},
    "base_model.model.a.lora_B.weight": {"dtype": "F32", "shape": [3, 2], "data_offsets": [48, 72]},
}
INDEX = {"metadata": {"total_size": 72}, "weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "base", "r": 2}
CONFIG, TOKENIZER, SETTINGS = (
    json.loads((KO_TINY / name).read_text(encoding="utf-8"))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
)
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def safetensors(header, n_bytes=72):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(n_bytes)


def folder_of(**files):
    """A folder with these files and no others."""
    folder = place("model")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name.replace("__", ".")).write_bytes(text)
    return folder


@share("model headers")
@given(changed(HEADER).map(safetensors) | damaged(safetensors(HEADER)), changed(INDEX), changed(ADAPTER) | VALUES)
@example(safetensors({"w": {"shape": [10**9, "a"], "data_offsets": [0, 0]}}), INDEX, ADAPTER)
@example(safetensors({"w": {"shape": [1], "data_offsets": [0, float("inf")]}}), INDEX, ADAPTER)
@example(safetensors({"w": {"shape": [1.5], "data_offsets": [0, 0]}}), INDEX, ADAPTER)
@example(safetensors(HEADER), {"weight_map": {"w": "/etc/hostname"}}, ADAPTER)
@example(safetensors(HEADER), {"weight_map": {"w": "a\0"}}, ADAPTER)
def test_headers_indices_and_adapters(content, index, adapter):
    named = {"config__json": {}, "tokenizer__json": {}, "a__safetensors": content, "b__safetensors": content}
    with one_line_at_most():
        read_header(written(content, "x.safetensors"))
    with one_line_at_most():
        found = read_model_files(folder_of(**named, **{"model__safetensors__index__json": index}))
        assert found.parameters >= 0 and found.stored_bytes >= 0 and found.texts
        assert {file.relative_to(found.folder) for file in found.weights}
    with one_line_at_most():
        read_adapter(str(folder_of(adapter_config__json=adapter, adapter_model__safetensors=content)), "m", HEADER)


def test_deep_nesting_is_told_wherever_json_is_read():
    deep = b"[" * 100_000
    for files in (
        {"config__json": {}, "model__safetensors__index__json": deep},
        {"adapter_config__json": deep, "adapter_model__safetensors": b""},
        {"config__json": {}, "tokenizer__json": {}, "model__safetensors": safetensors(deep)},
    ):
        with pytest.raises(ModelError):
            read_model_files(folder_of(**files))
    with pytest.raises(ModelError, match="missing or damaged"):
        read_adapter(str(folder_of(adapter_config__json=deep)), "m", {})


@share("models")
@given(st.data())
@example(None)
def test_configurations_and_tokenizers(data):
    which, content = "config.json", {**CONFIG, "hidden_size": "64"}
    if data is not None:
        which = data.draw(st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json"]))
        sound = {"config.json": CONFIG, "tokenizer.json": TOKENIZER, "tokenizer_config.json": SETTINGS}[which]
        if which == "tokenizer_config.json":
            sound = {**sound, "chat_template": CHAT}
        content = data.draw(_changed_at_the_top(sound))
    folder = place("checkpoint")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(KO_TINY, folder)
    (folder / which).write_text(json.dumps(content))
    with warnings.catch_warnings(), one_line_at_most((UserError, PanicError)):
        warnings.simplefilter("ignore")
        with panics_as_errors():
            info = read_model_info(ModelEntry(str(folder)))
            assert info.parameters and info.identity and isinstance(info.context_length, int | None)
            tokenizer = PromptTokenizer(info.tokenizer, "2026-01-01T00:00:00+00:00")
            ids = tokenizer.tokenizer("영화 good", add_special_tokens=False)["input_ids"]
            assert isinstance(tokenizer.decode(ids), str)


@st.composite
def _changed_at_the_top(draw, document):
    """Another value of one or two keys, which `changed` would seldom find among a vocabulary."""
    document = dict(document)
    for _ in range(draw(st.integers(1, 2))):
        key = draw(st.sampled_from(sorted(document)))
        small = isinstance(document[key], dict) and len(json.dumps(document[key])) < 2000
        document[key] = draw(changed(document[key]) if small and document[key] else VALUES)
    return document


GGUF = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
GGUF += struct.pack("<Q", 4) + b"name" + struct.pack("<IQ", 8, 1) + b"x"
GGUF += struct.pack("<Q", 1) + b"w" + struct.pack("<IQIQ", 1, 8, 0, 0) + bytes(64)


@share("gguf headers")
@given(damaged(GGUF))
@example(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0))
@example(b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60) + struct.pack("<Q", 2**62))
def test_gguf_headers(content):
    with one_line_at_most():
        read_gguf_files(str(written(content, "x.gguf")))
