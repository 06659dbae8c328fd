"""The engine `vllm` over a module of the same signatures: it says what the local engine says."""

from __future__ import annotations

import sys

import pytest

from harness import run
from harness.config.schema import ModelEntry
from harness.core.errors import BrokenDeviceError, ModelError
from harness.engine.protocol import OpenSettings
from harness.engine.registry import find_engine
from harness.planning.identity import grid_identity
from harness.planning.preparation import prepare
from harness.results.store import RunStore
from tests.conftest import KO_TINY, REPO
from tests.servers.running import SMALL, assert_equal, config, records

ENGLISH = ["task.limit=6", "grid.templates=[english]", "grid.k=[0,2]", "grid.seeds=[1]"]


@pytest.fixture
def vllm(monkeypatch):
    """Imported by the engine alone."""
    monkeypatch.syspath_prepend(str(REPO / "tests" / "fake_vllm"))
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    import vllm

    yield vllm
    sys.modules.pop("vllm", None)


@pytest.mark.parametrize("grid", [SMALL, ENGLISH])
def test_records_are_those_of_the_local_engine(tmp_path, vllm, grid):
    expected = records(run(config(tmp_path, "local", f"model.path={KO_TINY}", *grid)).run_dir)
    found = run(config(tmp_path, "vllm", f"model.path={KO_TINY}", "model.engine=vllm", *grid))
    assert_equal(records(found.run_dir), expected)
    facts = RunStore(found.run_dir).read_json("manifest.json")["engines"][str(KO_TINY)]
    assert (facts["version"], facts["dtype"], facts["shares_prefixes"]) == ("0.33.0", "float32", True)


def test_labels_of_several_tokens_and_more_than_128_of_them(vllm):
    from tests.servers.model import Model
    from tests.servers.probing import prompt_of

    model = Model(KO_TINY)
    labels = [[i] for i in range(5, 205)] + [[7, 8], [7, 9, 11]]
    opened = find_engine("vllm").open(ModelEntry(str(KO_TINY)), OpenSettings())
    found = opened.score([prompt_of([40, 41, 42], labels)])
    for label, logprob in zip(labels, found.logprobs[0], strict=True):
        rows = model.logprobs([40, 41, 42, *label])
        assert logprob == pytest.approx(sum(rows[2 + i][token] for i, token in enumerate(label)), abs=1e-4)


def test_answers_are_those_of_the_local_engine(tmp_path, vllm):
    grid = [*SMALL, "scoring=generate"]
    expected = records(run(config(tmp_path, "local", f"model.path={KO_TINY}", *grid)).run_dir)
    found = records(run(config(tmp_path, "vllm", f"model.path={KO_TINY}", "model.engine=vllm", *grid)).run_dir)
    for column in ("raw_answer", "prediction", "n_generated_tokens"):
        assert found[column].equals(expected[column]), column


def test_an_engine_that_is_dead_ends_its_process(tmp_path, vllm, monkeypatch):
    monkeypatch.setattr(vllm.LLM, "dies_after", 1)
    with pytest.raises(BrokenDeviceError, match="vLLM's engine is dead: EngineCore encountered"):
        run(config(tmp_path, "dead", f"model.path={KO_TINY}", "model.engine=vllm", *SMALL))


def test_without_vllm_one_line_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match=r"pip install 'prompt-grid-harness\[vllm\]'"):
        run(config(tmp_path, "none", f"model.path={KO_TINY}", "model.engine=vllm", *SMALL))


def test_a_model_is_split_over_whole_gpus(vllm):
    opened = find_engine("vllm").open(ModelEntry(str(KO_TINY), gpus_per_replica=2), OpenSettings(share_prefixes=False))
    assert opened._llm.options == {"tensor_parallel_size": 2, "enable_prefix_caching": False}
    with pytest.raises(ModelError, match="expected 2, 4"):
        find_engine("vllm").open(ModelEntry(str(KO_TINY), gpus_per_replica=1.5), OpenSettings())


def test_its_records_are_kept_apart_from_those_of_the_local_engine(tmp_path):
    both = [
        prepare(config(tmp_path, "one", f"model.path={KO_TINY}", f"model.engine={name}")) for name in ("local", "vllm")
    ]
    local, other = (one.models[0].info for one in both)
    assert local.identity == other.identity
    assert grid_identity(both[0]) != grid_identity(both[1])
    assert other.resources.device == "cuda"
