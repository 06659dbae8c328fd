"""A GPU that is not there: torch and triton generate and compile code for it, and nothing runs.

For a process of its own: what is replaced here stays replaced.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch


@dataclass(frozen=True)
class Gpu:
    """What compilers ask of a GPU.

    Attributes:
        shared_memory: bytes that one block may have at most.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    memory: int
    shared_memory: int
    cache: int

    @property
    def properties(self) -> Any:
        """As torch shows them."""
        return SimpleNamespace(
            name=self.name, major=self.capability[0], minor=self.capability[1], total_memory=self.memory,
            multi_processor_count=self.multiprocessors, regs_per_multiprocessor=REGISTERS, warp_size=WARP,
            max_threads_per_multi_processor=2048, max_threads_per_block=1024, L2_cache_size=self.cache,
            shared_memory_per_block=48 * 2**10, shared_memory_per_block_optin=self.shared_memory, gcnArchName="",
            uuid=None,
        )  # fmt: skip


REGISTERS = 65536
WARP = 32
GPUS = {
    "sm_80": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 80 * 2**30, 163 * 2**10, 40 * 2**20),
    "sm_90": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 80 * 2**30, 227 * 2**10, 50 * 2**20),
}


def pretend(gpu: Gpu) -> list[Any]:
    """Take a GPU for granted in this process.

    Returns:
        What triton compiles from here on, one object per kernel, as it is compiled.
    """
    # Other processes would have the real ones; and what was compiled before is compiled again.
    torch._inductor.config.compile_threads = 1
    torch._inductor.config.force_disable_caches = True
    _replace_cuda(gpu)
    _replace_inductor(gpu)
    return _replace_triton(gpu)


def _replace_cuda(gpu: Gpu) -> None:
    """The runtime's answers about devices and streams."""
    stream = SimpleNamespace(cuda_stream=0, device=torch.device("cuda", 0))
    answers: dict[Any, dict[str, Any]] = {
        torch.cuda: {
            "is_available": True, "device_count": 1, "current_device": 0, "_lazy_init": None, "is_initialized": True,
            "get_device_properties": gpu.properties, "get_device_capability": gpu.capability,
            "get_device_name": gpu.name, "synchronize": None, "is_bf16_supported": True, "set_device": None,
            "_exchange_device": 0, "_maybe_exchange_device": 0, "current_stream": stream,
            "get_rng_state": torch.zeros(16, dtype=torch.uint8), "set_rng_state": None,
        },
        torch._C: {
            "_cuda_getCurrentRawStream": 0, "_cuda_getDevice": 0, "_cuda_setDevice": None,
            "_cuda_exchangeDevice": 0, "_cuda_maybeExchangeDevice": 0, "_accelerator_getDeviceIndex": 0,
        },
        torch.accelerator: {"is_available": False},
    }  # fmt: skip
    for module, values in answers.items():
        for name, value in values.items():
            setattr(module, name, _answering(value))
    torch.Tensor.pin_memory = lambda self, *_: self  # type: ignore[assignment, method-assign]


def _replace_inductor(gpu: Gpu) -> None:
    """What torch's compiler asks, and what it would run to find out."""
    import torch._inductor.fx_passes.joint_graph
    import torch._inductor.fx_passes.post_grad
    import torch._inductor.runtime.triton_heuristics
    import torch._subclasses.fake_tensor
    import torch.utils._triton
    from torch._dynamo.device_interface import CudaInterface

    answers: dict[Any, dict[str, Any]] = {
        CudaInterface: {
            "is_available": True, "device_count": 1, "current_device": 0, "get_device_properties": gpu.properties,
            "get_compute_capability": 10 * gpu.capability[0] + gpu.capability[1], "is_triton_capable": True,
            "raise_if_triton_unavailable": None,
        },
        CudaInterface.Worker: {"get_device_properties": gpu.properties, "current_device": 0},
    }  # fmt: skip
    for owner, values in answers.items():
        for name, value in values.items():
            setattr(owner, name, staticmethod(_answering(value)))
    torch.utils._triton.has_triton = _answering(True)  # type: ignore[assignment]
    torch._subclasses.fake_tensor.init_gpu_context = _answering(None)
    # Copies between tensors switch to their device first.
    sys.modules["torch._higher_order_ops.flex_attention"]._permute_strides = lambda output, strides: output
    # What the compiled code calls when it runs, on fake tensors.
    torch._C._dynamo.guards._empty_strided_cuda = lambda size, stride, dtype: torch.empty_strided(
        size, stride, dtype=dtype, device="cuda"
    )
    # Patterns are traced with real tensors on the device.
    torch._inductor.fx_passes.joint_graph.lazy_init = _answering(None)  # type: ignore[assignment]
    torch._inductor.fx_passes.post_grad.lazy_init = _answering(None)  # type: ignore[assignment]
    tuner = torch._inductor.runtime.triton_heuristics.CachingAutotuner
    tuner._make_launchers = _answering(None)  # type: ignore[method-assign]
    tuner.run = _answering(None)  # type: ignore[method-assign]


def _replace_triton(gpu: Gpu) -> list[Any]:
    """The driver of the GPU, and a record of what is compiled."""
    import triton
    from torch._inductor.runtime import triton_heuristics
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    class Utilities:
        get_device_properties = staticmethod(
            _answering({"max_shared_mem": gpu.shared_memory, "multiprocessor_count": gpu.multiprocessors,
                        "warpSize": WARP})
        )  # fmt: skip

    class Driver:
        utils = Utilities
        get_current_target = _answering(GPUTarget("cuda", 10 * gpu.capability[0] + gpu.capability[1], WARP))
        get_active_torch_device = _answering(torch.device("cuda", 0))
        get_current_device = _answering(0)
        get_current_stream = _answering(0)
        get_benchmarker = _answering(_answering(0.0))

    driver.set_active(Driver())
    compiled: list[Any] = []
    compile_kernel = triton.compile

    def record(*arguments: Any, **options: Any) -> Any:
        compiled.append(compile_kernel(*arguments, **options))
        return compiled[-1]

    triton.compile = triton_heuristics.triton.compile = record
    sys.modules["torch._inductor.runtime.triton_helpers"].set_driver_to_gpu = _answering(None)
    return compiled


def _answering(value: Any) -> Any:
    """A function that takes anything and gives a value."""
    return lambda *_, **__: value
