"""All steps of `make gpu-check` run through, with the oldest versions that the engine works with as well."""

import json
import os
import subprocess

import pytest

from harness.engine import LOWEST
from tests.bare import bare_environment
from tests.conftest import REPO
from tests.gpu.conftest import VARIABLE
from tests.gpu.plan import step_names


@pytest.mark.slow
def test_all_steps_end_well_on_a_bare_machine_within_eight_minutes(gpu_python, tmp_path):
    """Without a GPU at tiny sizes; where `GPU_CHECK_PYTHON` names a Python, with the oldest versions."""
    command = [gpu_python, "-m", "tests.gpu", "--out", str(tmp_path)]
    done = subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, env=bare_environment(), check=False, timeout=480
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert set(found["steps"]) == set(step_names())
    assert {entry["state"] for entry in found["steps"].values()} <= {"ok", "skipped"}
    if VARIABLE in os.environ:
        for name, lowest in LOWEST.items():
            assert found["machine"]["packages"][name].startswith(lowest), f"{VARIABLE} should have {name} {lowest}"
