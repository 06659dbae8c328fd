"""Compiles FlexAttention, as the engine uses it, for a GPU that is not there.

    python -m tests.gpu.cross_compile sm_90

Prints JSON: what each kernel takes of the GPU. Needs torch's CUDA build, which brings triton.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.engine.local.attention.choice import AttentionShape
from harness.engine.local.attention.flex import FlexKernel, padded_head_size
from harness.engine.local.memory import GPU_TOKENS_PER_PACK
from harness.engine.local.tree.packing import make_packs
from harness.engine.local.tree.tree import build_tree
from tests.gpu.pretended import GPUS, WARP, pretend

HEADS = ((8, 8, 64), (16, 16, 80), (4, 4, 96), (16, 16, 128), (32, 8, 128), (4, 4, 256))
"""Heads, heads of keys, head size: Pythia, odd sizes, polyglot, Llama's sharing of keys, the largest."""
TRUNK = 600


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel takes.

    Attributes:
        shared: bytes of one block.
        registers, stack: of one thread; the stack's bytes lie in slow memory.
        products: instructions of the matrix products: `wgmma`, `mma` or `fma`.
    """

    dtype: str
    heads: int
    kv_heads: int
    head_size: int
    kept: bool
    kernel: str
    threads: int
    shared: int
    registers: int
    stack: int
    products: str


def compile_all(name: str) -> Iterator[Usage]:
    """Compile for all shapes, with and without keys of earlier packs; one kernel each at least."""
    compiled = pretend(GPUS[name])
    for dtype in (torch.bfloat16, torch.float32):
        for heads, kv_heads, size in HEADS:
            for kept, kernels in _compile(AttentionShape(heads, kv_heads, size, dtype), compiled):
                for kernel in kernels:
                    yield _usage(kernel, str(dtype).removeprefix("torch."), heads, kv_heads, size, kept)


def _compile(shape: AttentionShape, compiled: list[Any]) -> Iterator[tuple[bool, list[Any]]]:
    """The kernels of a first pack and of one that comes after it."""
    torch._dynamo.reset()
    tokens = GPU_TOKENS_PER_PACK[1]
    leaves = [[*range(TRUNK), 10**6 + leaf, *range(25)] for leaf in range(2 * tokens // 26)]
    packs = list(make_packs(build_tree(leaves), leaves, tokens))[:2]
    kernel, device = FlexKernel(tokens), torch.device("cuda", 0)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for pack in packs:
            compiled.clear()
            state = kernel.begin(pack, {})
            size = padded_head_size(shape.head_size, shape.dtype)
            query, key, value = (
                torch.empty(1, heads, n, size, dtype=shape.dtype, device=device)
                for heads, n in (
                    (shape.heads, state.n_rows), (shape.kv_heads, state.n_keys), (shape.kv_heads, state.n_keys)
                )
            )  # fmt: skip
            kernel.call(query, key, value, state._mask(device), shape.head_size**-0.5)
            yield bool(state.above), list(compiled)


def _usage(kernel: Any, dtype: str, heads: int, kv_heads: int, size: int, kept: bool) -> Usage:
    text = _resources(kernel.asm["cubin"])
    code = kernel.asm["ptx"]
    products = next((kind for kind, mark in (("wgmma", "wgmma"), ("mma", "mma.sync")) if mark in code), "fma")
    data = kernel.metadata
    registers, stack = (int(re.findall(rf"{word}:(\d+)", text)[0]) for word in ("REG", "STACK"))
    return Usage(
        dtype, heads, kv_heads, size, kept, data.name, WARP * data.num_warps, data.shared, registers, stack, products
    )


def _resources(binary: bytes) -> str:
    """What the GPU's assembler says of a binary."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    for usage in compile_all(sys.argv[1]):
        print(json.dumps(asdict(usage)), flush=True)
