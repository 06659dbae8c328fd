"""Fixtures that any test may use: places, tiny random models, small data in NSMC's format."""

import gc
import os
import shutil
from pathlib import Path

import pytest

from harness.engine.local.layers.reproducibility import fix_order_of_sums

fix_order_of_sums()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Models this small gain nothing from more threads, and on busy cores threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The collector else walks through torch, transformers and Ray thousands of times: a seventh of the suite's time.
gc.set_threshold(100_000)

REPO = Path(__file__).resolve().parents[1]
SHARED = Path(__file__).resolve().parents[2] / "shared"
KO_TINY = REPO / "data_in" / "models" / "ko-tiny"
DEMO = REPO / "data_in" / "nsmc_demo"


def pytest_collection_modifyitems(items):
    """Several processes may run the tests: those of one file, and all that need the shared Ray, stay in one."""
    for item in items:
        path = item.path.relative_to(REPO / "tests")
        group = "ray" if path.parts[0] == "distributed" else path.as_posix()
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    """Default paths of configurations are relative to the repository."""
    monkeypatch.chdir(REPO)


@pytest.fixture(scope="session")
def shared_nsmc():
    """The folder of real NSMC reviews beside the repository."""
    folder = SHARED / "data" / "nsmc"
    if not (folder / "ratings_test.txt").is_file():
        pytest.skip("no real NSMC reviews: ../shared/data/nsmc beside the repository is absent")
    return folder


@pytest.fixture(scope="session")
def ko_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(KO_TINY))


def as_loaded(model):
    """The model with the attention that it was loaded with: scorers leave theirs, and tests share models."""
    from harness.engine.local.transformers_internals import attention_of

    if attention_of(model) != "sdpa":
        model.set_attn_implementation("sdpa")
    return model


@pytest.fixture(scope="session")
def loaded_ko_tiny():
    from harness.engine.local.loading import ModelSpec, load_model

    return load_model(ModelSpec(str(KO_TINY), dtype="float32", device="cpu"))


@pytest.fixture
def ko_tiny(loaded_ko_tiny):
    """The embedded model in fp32."""
    return as_loaded(loaded_ko_tiny)


@pytest.fixture(scope="session")
def make_model():
    """`random_model`, for models that only one test needs."""
    from tests.models import random_model

    return random_model


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory):
    """Model type to a folder with random weights and the embedded tokenizer."""
    from tests.models import RANDOM_MODELS, random_model

    root = tmp_path_factory.mktemp("models")
    folders = {}
    for kind in RANDOM_MODELS:
        folder = root / kind
        random_model(kind).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(KO_TINY / name, folder / name)
        folders[kind] = folder
    return folders


@pytest.fixture(scope="session")
def loaded_random_models(model_folders):
    from harness.engine.local.loading import ModelSpec, load_model

    return {k: load_model(ModelSpec(str(f), dtype="float32", device="cpu")) for k, f in model_folders.items()}


@pytest.fixture
def random_models(loaded_random_models):
    """Model type to the model of `model_folders`, loaded in fp32."""
    return {kind: as_loaded(model) for kind, model in loaded_random_models.items()}


def write_ratings(path, rows, header="id\tdocument\tlabel"):
    """One file in NSMC's format; rows are (id, document, label)."""
    lines = [header, *("\t".join(str(cell) for cell in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def write_nsmc(tmp_path):
    """Write (train, test) rows of (id, document, label); returns the folder."""

    def write(train, test):
        folder = tmp_path / "nsmc"
        folder.mkdir(exist_ok=True)
        write_ratings(folder / "ratings_train.txt", train)
        write_ratings(folder / "ratings_test.txt", test)
        return folder

    return write


@pytest.fixture
def make_config():
    """A `RunConfig` on the embedded model and data; sections update the defaults."""
    from harness.config.loading import config_from

    def make(**sections):
        base = {"model": {"path": str(KO_TINY)}, "task": {"data_dir": str(DEMO)}, "cluster": {"address": "inline"}}
        for name, values in sections.items():
            base[name] = {**base.get(name, {}), **values} if isinstance(values, dict) else values
        return config_from(base)

    return make
