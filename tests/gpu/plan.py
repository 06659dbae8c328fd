"""What is checked and measured, in which order, and how long each step may take."""

from __future__ import annotations

from dataclasses import dataclass

LIMIT_S = 470
"""Of a whole run, so that it ends within eight minutes."""
TESTS_SHARE = 0.55
"""Of a whole run's time that the GPU tests may take, which run beside the first group."""


@dataclass(frozen=True)
class Step:
    """One thing to find out.

    Attributes:
        name: of its results.
        seconds: most that it may take.
        function: `module:function`, called with a `tests.gpu.steps.Note`.
        needs: package without which it is skipped.
    """

    name: str
    seconds: int
    function: str
    needs: str = ""


@dataclass(frozen=True)
class Group:
    """Steps that share a process, and with it a loaded model, as long as none of them breaks it."""

    name: str
    steps: tuple[Step, ...]


GROUPS = (
    Group(
        "right",
        (
            Step("parity gpt_neox", 70, "tests.gpu.parity:gpt_neox"),
            Step("parity llama", 70, "tests.gpu.parity:llama"),
            Step("generation", 40, "tests.gpu.generation:answers_of_transformers"),
            Step("waits", 20, "tests.gpu.waits:count_waits"),
        ),
    ),
    Group(
        "neox",
        (
            Step("device", 20, "tests.gpu.device_facts:measure_device"),
            Step("load 1.3b", 75, "tests.gpu.lecture:load_neox"),
            Step("lecture 1.3b", 25, "tests.gpu.lecture:grid_of_neox"),
            Step("memory", 25, "tests.gpu.lecture:memory_of_neox"),
            Step("decoding", 60, "tests.gpu.decoding:compare_decoding"),
            Step("profile", 25, "tests.gpu.profile:profile_grid"),
            Step("contenders", 60, "tests.gpu.contenders:compare_scoring"),
            Step("generate_batch", 40, "tests.gpu.contenders:compare_generate_batch"),
            Step("other kernels", 50, "tests.gpu.lecture:other_kernels_of_neox"),
        ),
    ),
    Group(
        "llama",
        (
            Step("load 8b", 60, "tests.gpu.lecture:load_llama"),
            Step("lecture 8b", 50, "tests.gpu.lecture:grid_of_llama"),
        ),
    ),
    Group("vllm", (Step("vllm", 120, "tests.gpu.vllm_engine:compare_vllm", "vllm"),)),
    Group("sglang", (Step("sglang", 120, "tests.gpu.sglang_server:compare_sglang", "sglang"),)),
)
"""The most valuable first. Models load once per group. The last two groups are for machines that have those engines."""
TESTS = "tests"


def step_names() -> tuple[str, ...]:
    """All steps, the GPU tests first."""
    return (TESTS, *(step.name for group in GROUPS for step in group.steps))
