"""What the device itself can do: products of matrices, copies, launches."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from harness.engine.local.transfer import to_device
from tests.gpu.device import CUDA, DEVICE, SIZES, seconds_of
from tests.gpu.steps import Note

PACKAGES = ("torch", "triton", "transformers", "accelerate", "numpy", "pandas", "pyarrow", "vllm", "sglang", "lm_eval")
LAUNCHES = 1000
COPIES = 200


def measure_device(note: Note) -> None:
    """Peak of products, memory's bandwidth, what a launch costs."""
    note("python", sys.version.split()[0])
    note("packages", {name: _version(name) for name in PACKAGES})
    if CUDA:
        properties = torch.cuda.get_device_properties(DEVICE)
        note("gpu", {"name": properties.name, "memory": properties.total_memory,
                     "capability": f"{properties.major}.{properties.minor}"})  # fmt: skip
    n = SIZES.product
    for dtype in (torch.bfloat16, torch.float32):
        left, right = (torch.randn(n, n, device=DEVICE, dtype=dtype) for _ in range(2))
        seconds = seconds_of(lambda left=left, right=right: left @ right, 10)  # type: ignore[misc]
        note(f"{str(dtype).removeprefix('torch.')} products, TFLOP/s", 2 * n**3 / seconds / 1e12)
    source = torch.randn(SIZES.copied // 4, device=DEVICE)
    target = torch.empty_like(source)
    note("memory read and written, TB/s", 2 * source.nbytes / seconds_of(lambda: target.copy_(source)) / 1e12)
    small = torch.zeros(8, device=DEVICE)

    def launch() -> None:
        for _ in range(LAUNCHES):
            small.add_(1)

    note("a small launch, us", seconds_of(launch, 3) / LAUNCHES * 1e6)
    numbers = list(range(4096))

    def copy() -> None:
        for _ in range(COPIES):
            to_device(numbers, DEVICE)

    note("4096 numbers to the device, us", seconds_of(copy, 3) / COPIES * 1e6)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
