"""FlexAttention's kernels compile for GPUs that are not there, and fit them."""

import json
import subprocess

import pytest

from tests.bare import bare_environment
from tests.conftest import REPO
from tests.gpu.cross_compile import HEADS
from tests.gpu.pretended import GPUS, REGISTERS

PRODUCTS = {"sm_80": "mma", "sm_90": "wgmma"}
SPILLED = 64
"""Bytes of a thread's registers that may lie in slow memory."""
BUILD = "import torch, triton; print(torch.version.cuda)"


@pytest.fixture(scope="module")
def cuda_python(gpu_python):
    done = subprocess.run([gpu_python, "-c", BUILD], capture_output=True, text=True, check=False)
    if done.returncode or done.stdout.strip() == "None":
        pytest.skip("torch's CUDA build, which brings triton, is not installed (GPU_CHECK_PYTHON names another Python)")
    return gpu_python


@pytest.mark.slow
@pytest.mark.parametrize("target", GPUS)
def test_every_shape_compiles_and_fits(cuda_python, target):
    command = [cuda_python, "-m", "tests.gpu.cross_compile", target]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=bare_environment(), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    shapes = {(k["dtype"], k["heads"], k["kv_heads"], k["head_size"], k["kept"]) for k in kernels}
    assert shapes == {
        (dtype, *heads, kept) for dtype in ("bfloat16", "float32") for heads in HEADS for kept in (False, True)
    }
    for kernel in kernels:
        assert kernel["shared"] <= GPUS[target].shared_memory, kernel
        assert kernel["registers"] * kernel["threads"] <= REGISTERS, kernel
        if kernel["dtype"] == "bfloat16":
            assert kernel["products"] == PRODUCTS[target], kernel
            assert kernel["stack"] <= SPILLED, f"registers are spilled to slow memory: {kernel}"
