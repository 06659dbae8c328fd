"""What the engine takes of transformers beyond its interface: there in the versions checked, missed without harm."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers

from harness.core.errors import ModelError
from harness.engine.local import transformers_internals as internals
from harness.engine.local.architectures import check_architecture
from harness.engine.local.layers.modules import find_parts
from harness.engine.local.layers.packed_weights import pack_weights
from harness.engine.local.scorer import Scorer
from tests.conftest import REPO

ENGINE = REPO / "harness" / "engine" / "local"
INNER = ("config._attn_implementation", "pytorch_utils", "modeling_auto", "peft_utils", "get_text_config", "inv_freq",
         "max_seq_len_cached", "_commit_hash", "Conv1D")  # fmt: skip
TESTS = (
    "test_transformers_internals", "test_scorer", "test_generator", "test_loading", "test_parts", "test_packed_weights",
    "test_regimes", "test_head",
)  # fmt: skip
"""Of the engine, that touch transformers."""


def parts_of(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:3]))


def test_inner_names_stand_in_one_module():
    for file in ENGINE.rglob("*.py"):
        if file.name != "transformers_internals.py":
            found = [name for name in INNER if name in code_of(file)]
            assert not found, file


def code_of(file: Path) -> str:
    """A file without its comments and docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    texts = [n for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    for node in texts:
        node.value = ast.Constant("")
    return ast.unparse(tree)


def test_everything_is_there_in_the_version_at_hand(random_models, tmp_path):
    assert parts_of(internals.CHECKED[0]) <= parts_of(transformers.__version__)
    (conv,) = internals.TRANSPOSED_LINEAR
    assert any(isinstance(module, conv) for module in random_models["gpt2"].modules())
    assert "llama" in internals.CAUSAL_ARCHITECTURES
    llama = random_models["llama"]
    llama.set_attn_implementation("eager")
    assert internals.attention_of(llama) == "eager"
    llama.set_attn_implementation("sdpa")
    assert internals.attention_of(llama) == "sdpa"
    assert internals.text_config(llama.config) is llama.config
    assert internals.rotary_caches(llama)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert internals.adapter_of(str(tmp_path), "main") == str(tmp_path / "adapter_config.json")
    assert internals.adapter_of(str(REPO), "main") is None


def test_the_checked_versions_are_those_that_the_project_allows_from():
    wanted = next(d for d in project()["dependencies"] if d.startswith("transformers"))
    assert re.fullmatch(r"transformers>=([\d.]+),<6", wanted)
    assert parts_of(internals.CHECKED[0])[:2] == parts_of(oldest())[:2]


def project():
    return tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def oldest() -> str:
    """The oldest transformers that the project allows, as three numbers."""
    wanted = next(d for d in project()["dependencies"] if d.startswith("transformers"))
    numbers = re.findall(r">=([\d.]+)", wanted)[0].split(".")
    return ".".join([*numbers, "0", "0"][:3])


WITHOUT = """
import importlib, json, sys
import transformers
real = importlib.import_module
def without(name, package=None):
    if name in ("transformers.pytorch_utils", "transformers.utils.peft_utils"):
        raise RuntimeError("Failed to import " + name)
    if name == "transformers.models.auto.modeling_auto":
        return object()
    return real(name, package)
importlib.import_module = without
from harness.engine.local import transformers_internals as found
print(json.dumps([len(found.TRANSPOSED_LINEAR), len(found.CAUSAL_ARCHITECTURES), found.adapter_of("a/b", "main")]))
"""


def test_the_import_never_fails_and_says_what_is_not_there():
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [0, 0, None]


def test_without_transposed_maps_gpt2_is_computed_all_the_same(make_model, monkeypatch):
    model = make_model("gpt2").eval()
    contexts, labels = [[5, 6, 7, 8], [5, 6, 9]], [[[1], [2]]] * 2
    expected = Scorer(model, 64, True).score(contexts, labels).logprobs
    for module in ("layers.modules", "layers.packed_weights"):
        monkeypatch.setattr(f"harness.engine.local.{module}.TRANSPOSED_LINEAR", ())
    model.set_attn_implementation("sdpa")
    assert not find_parts(model).by_token
    assert pack_weights(model) == 0, "all that is linear in GPT-2 is transposed"
    found = Scorer(model, 64, True).score(contexts, labels).logprobs
    assert abs(found - expected).max() < 1e-4


def test_without_the_list_of_causal_models_loading_is_left_to_tell(monkeypatch):
    odd = SimpleNamespace(architectures=["OddForCausalLM"], model_type="odd")
    with pytest.raises(ModelError, match="no causal language model in transformers"):
        check_architecture("odd", odd)
    monkeypatch.setattr("harness.engine.local.architectures.CAUSAL_ARCHITECTURES", {})
    check_architecture("odd", odd)


def test_a_model_without_the_inner_names_has_the_usual_attention_and_its_own_configuration():
    config = SimpleNamespace()
    model = SimpleNamespace(config=config, modules=lambda: [config])
    assert internals.attention_of(model) == internals.DEFAULT_ATTENTION
    assert internals.text_config(config) is config
    assert internals.rotary_caches(model) == []


@pytest.mark.slow
@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_the_engine_works_with_the_oldest_and_newest_transformers(which, tmp_path):
    """In an environment of its own, which sees the packages of this one behind its own."""
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    python = home / "bin" / "python"
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "behind.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")))
    wanted = f"transformers=={oldest()}" if which == "oldest" else "transformers>=5,<6"
    command = [python, "-m", "pip", "install", "--quiet", "--upgrade", "--ignore-installed", "--no-deps", wanted]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"no package index: {installed.stderr.strip().splitlines()[-1]}")
    found = subprocess.run(
        [python, "-c", "import transformers; print(transformers.__version__, transformers.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert Path(found[1]).is_relative_to(home), "the environment's own version"
    version = internals.CHECKED[which == "newest"]
    assert found[0] == version, f"{which} is {found[0]}: run this test, mend what fails, and name it in CHECKED"
    tests = [f"tests/{name}.py" for name in TESTS]
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests], cwd=REPO, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": str(REPO)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
