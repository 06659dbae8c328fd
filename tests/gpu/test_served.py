"""vLLM and SGLang are asked as they want to be asked: stand-ins that take nothing else answer for them."""

import os
import sys
import textwrap
import types
from dataclasses import dataclass, field

import numpy as np
import pytest

from tests.gpu import sglang_server, vllm_engine
from tests.gpu.served import Grid

GRID = Grid([[1, 2, 9], [5, 6], [1, 2, 7, 8], [5]], [[3, 4]] * 4, [2, 1, 2, 0], np.zeros((4, 2)), 1.0)


def logprob(context, token):
    """What the stand-ins answer."""
    return -(sum(context) % 97 + token % 13 + 1) / 10


EXPECTED = np.array([[logprob(c, t) for t in labels] for c, labels in zip(GRID.contexts, GRID.labels, strict=True)])


@dataclass
class SamplingParams:
    max_tokens: int
    temperature: float
    logprob_token_ids: list
    detokenize: bool
    flat_logprobs: bool

    def __post_init__(self):
        assert (self.max_tokens, self.temperature, self.detokenize, self.flat_logprobs) == (1, 0, False, True)


class LLM:
    made: list = []  # noqa: RUF012

    def __init__(
        self, model, *, dtype, enable_prefix_caching, max_num_seqs, max_num_batched_tokens, max_model_len
    ):  # fmt: skip
        assert enable_prefix_caching
        assert os.path.isfile(os.path.join(model, "config.json"))
        self.calls, self.resets = [], 0
        self.made.append(self)

    def generate(self, prompts, sampling_params, *, use_tqdm):
        contexts = [prompt["prompt_token_ids"] for prompt in prompts]
        assert contexts == sorted(contexts), "neighbours share prefixes"
        self.calls.append(len(contexts))
        return [
            types.SimpleNamespace(outputs=[types.SimpleNamespace(logprobs=[{
                token: types.SimpleNamespace(logprob=logprob(context, token)) for token in asked.logprob_token_ids
            }])])
            for context, asked in zip(contexts, sampling_params, strict=True)
        ]  # fmt: skip

    def reset_prefix_cache(self):
        self.resets += 1


@dataclass
class TokensPrompt:
    prompt_token_ids: list
    more: dict = field(default_factory=dict)

    def __getitem__(self, name):
        return getattr(self, name)


@pytest.fixture
def vllm(monkeypatch):
    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    module.__spec__ = types.SimpleNamespace(name="vllm")
    inputs = types.ModuleType("vllm.inputs")
    inputs.TokensPrompt = TokensPrompt
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.inputs", inputs)
    monkeypatch.setattr(LLM, "made", [])
    return module


def test_vllm_scores_labels_in_the_order_of_the_prompts(vllm, tmp_path):
    (tmp_path / "config.json").touch()
    llm = LLM(str(tmp_path), dtype="float32", **vllm_engine.SETTINGS)
    assert np.allclose(vllm_engine.label_logprobs(llm, GRID.contexts, GRID.labels), EXPECTED)


def test_vllm_is_timed_with_an_empty_cache_beside_this_project(vllm):
    found = {}
    vllm_engine.compare_vllm(found.__setitem__)
    (llm,) = LLM.made
    assert llm.calls == [21, 21]
    assert llm.resets == 1
    assert found["found"]["prompts/s"] > 0
    assert found["this project"]["prompts/s"] == pytest.approx(found["found"]["behind"] * found["found"]["prompts/s"])


SERVER = """
import argparse, json, math, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

parser = argparse.ArgumentParser()
for name in ("model-path", "dtype", "host", "attention-backend", "chunked-prefill-size"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--port", type=int, required=True)
for name in ("enable-mis", "disable-cuda-graph", "disable-radix-cache"):
    parser.add_argument("--" + name, action="store_true", required=True)
given = parser.parse_args()
assert (given.attention_backend, given.chunked_prefill_size) == ("flashinfer", "-1")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({}) if self.path == "/health" else self.send_error(404)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/score"
        assert set(asked) == {"model", "query", "items", "label_token_ids", "apply_softmax", "item_first"}
        assert asked["items"] and all(asked["items"]) and not asked["apply_softmax"] and not asked["item_first"]
        scores = [
            [math.exp(-(sum(asked["query"] + item) % 97 + token % 13 + 1) / 10) for token in asked["label_token_ids"]]
            for item in asked["items"]
        ]
        self.answer({"scores": scores})

    def answer(self, content):
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


HTTPServer((given.host, given.port), Handler).serve_forever()
"""


@pytest.fixture
def sglang(monkeypatch, tmp_path):
    package = tmp_path / "sglang"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "launch_server.py").write_text(textwrap.dedent(SERVER))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))


def test_sglang_scores_each_query_with_the_items_that_follow_it(sglang, tmp_path, monkeypatch):
    monkeypatch.setattr(sglang_server, "ITEMS", 1)
    with sglang_server.server(tmp_path, "float32") as address:
        found = sglang_server.label_logprobs(address, tmp_path, GRID)
    assert np.allclose(found, EXPECTED)


def test_sglang_is_timed_beside_this_project(sglang):
    found = {}
    sglang_server.compare_sglang(found.__setitem__)
    assert found["found"]["prompts/s"] > 0


def test_a_server_that_ends_at_once_is_told_by_its_status(sglang, tmp_path, monkeypatch):
    monkeypatch.setattr(sglang_server, "SETTINGS", ("--unknown",))
    with (
        pytest.raises(RuntimeError, match="SGLang's server ended with 2"),
        sglang_server.server(tmp_path, "float32"),
    ):
        pass
