"""One Ray for the whole test session, and small grids to run on it."""

from __future__ import annotations

import os

import pytest

from harness import run
from harness.config.loading import load_config
from harness.config.schema import RunConfig
from harness.running import driver
from tests.conftest import REPO
from tests.distributed.overlapping import open_backend


@pytest.fixture(scope="session")
def shared_ray():
    """A local Ray with four logical CPUs; runs with `cluster.address=local` join it."""
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=256 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


SMALL = [
    "model.dtype=float32",
    "model.device=cpu",
    "task.limit=36",
    "grid.templates=[lecture_1,good_bad]",
    "grid.k=[0,2,4]",
    "grid.seeds=[1,2]",
    "cluster.address=inline",
]


@pytest.fixture
def small_grid(tmp_path):
    """A function from overrides to a small float32 grid on the embedded model and data."""

    def make(*overrides: str) -> RunConfig:
        return load_config("configs/demo.yaml", [f"out={tmp_path}", "name=run", *SMALL, *overrides])

    return make


@pytest.fixture
def overlapping(monkeypatch):
    """Units of runs that begin after this overlap, as they do on GPUs."""
    monkeypatch.setattr(driver, "open_backend", open_backend)


@pytest.fixture(scope="session")
def quiet_run(tmp_path_factory):
    """The directory of a run of `small_grid` that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPO)
        return run(load_config("configs/demo.yaml", [f"out={tmp_path_factory.mktemp('quiet')}", *SMALL])).run_dir
