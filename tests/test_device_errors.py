"""Which exceptions mean less work at a time, and which the end of the process."""

import weakref

import pytest
import torch

from harness.engine.local.device_errors import breaks_the_device, give_memory_back, is_out_of_memory

ASSERTED = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
)
def test_lack_of_memory_is_no_broken_device(error):
    assert is_out_of_memory(error)
    assert not breaks_the_device(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(ASSERTED),
        RuntimeError(ASSERTED),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    ],
)
def test_errors_that_stay_end_the_process(error):
    assert breaks_the_device(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a sample says: CUDA error: out of memory"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        KeyError("document"),
        RuntimeError("CUDA error: operation not permitted when stream is capturing"),
        torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture"),
    ],
)
def test_errors_of_a_sample_are_neither(error):
    assert not breaks_the_device(error)
    assert not is_out_of_memory(error)


def test_memory_is_given_back_without_what_the_failed_call_held(monkeypatch):
    held = []

    def fail():
        activations = torch.zeros(100)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")

    left = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append(held[0]()))
    try:
        fail()
    except torch.OutOfMemoryError as error:
        give_memory_back(error)
    assert left == [None]
