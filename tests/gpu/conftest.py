"""The Python that slow tests run the GPU path with."""

import os
import sys

import pytest

VARIABLE = "GPU_CHECK_PYTHON"


@pytest.fixture(scope="session")
def gpu_python():
    """The interpreter that `GPU_CHECK_PYTHON` names, such as one with the oldest versions; else this one."""
    return os.environ.get(VARIABLE, sys.executable)
