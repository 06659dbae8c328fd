"""Where the time of one unit goes: the device's kernels that take longest, and the host's parts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity

from harness.engine.local.tree.packing import make_packs
from harness.engine.local.tree.readouts import forks_of, origins, sequences_of
from harness.engine.local.tree.tree import build_forked_tree
from tests.gpu.device import CUDA, SIZES, wait
from tests.gpu.end_to_end import render_units, run_units
from tests.gpu.large import Large, neox
from tests.gpu.lecture import Grid, make_grid
from tests.gpu.steps import Note

T = TypeVar("T")
TOP = 20
KINDS = {
    "attention": ("flash", "flex", "softmax", "attention", "fmha"),
    "products": ("gemm", "nvjet", "cutlass", "xmma", "addmm", "linear", "aten::mm", "matmul"),
    "copies": ("memcpy", "memset", "copy", "index", "cat", "gather", "scatter"),
}
"""What the name of a kernel tells of its purpose; the first that fits counts."""


def profile_grid(note: Note) -> None:
    """One scoring of a unit's prompts, and the host's parts one by one."""
    large = neox()
    grid = make_grid(large, SIZES.shard, SIZES.seeds[:1])
    _host(large, grid, note)
    (prompts,) = render_units(grid.workload, grid.units[:1])
    contexts, labels, may_share = [p.ids for p in prompts], [p.label_ids for p in prompts], origins(prompts)
    large.scorer.score(contexts, labels, may_share)
    wait()
    started = time.perf_counter()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if CUDA else [])]
    with torch.profiler.profile(activities=activities) as seen:
        large.scorer.score(contexts, labels, may_share)
        wait()
    note("profiled, s", time.perf_counter() - started)
    _device(seen, note)


def _device(seen: Any, note: Note) -> None:
    """Time on the device by kernel and by kind; on a CPU, of the operations themselves."""
    spent: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in seen.events():
        if CUDA and event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        name = event.name[:100]
        spent[name] += (event.self_device_time_total if CUDA else event.self_cpu_time_total) / 1e6
        calls[name] += 1
    total = spent.total()
    note("device busy, s", total)
    note("kernels launched", calls.total())
    kinds: Counter[str] = Counter()
    for name, seconds in spent.items():
        kind = next((kind for kind, words in KINDS.items() if any(w in name.lower() for w in words)), "others")
        kinds[kind] += seconds
    note("shares", {kind: seconds / total for kind, seconds in kinds.most_common()})
    note("top", [{"kernel": name, "ms": seconds * 1e3, "calls": calls[name], "share": seconds / total}
                 for name, seconds in spent.most_common(TOP)])  # fmt: skip


def _host(large: Large, grid: Grid, note: Note) -> None:
    """Seconds of each part of the first unit by itself, nothing beside it."""
    unit = grid.units[0]
    found: dict[str, float] = {}

    def timed(part: str, function: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = function()
        found[part] = time.perf_counter() - started
        return result

    (prompts,) = timed("rendering", lambda: render_units(grid.workload, [unit]))
    contexts, labels, may_share = [p.ids for p in prompts], [p.label_ids for p in prompts], origins(prompts)
    assert may_share is not None
    sequences, firsts, _ = timed("sequences", lambda: sequences_of(contexts, labels))
    forks = timed("forks", lambda: forks_of(len(sequences), firsts, contexts, may_share))
    tree = timed("tree", lambda: build_forked_tree(sequences, forks))
    timed("packs", lambda: list(make_packs(tree, sequences, large.facts.tokens_per_pack)))
    with TemporaryDirectory(prefix="gpu-check-") as place:
        stages = run_units(large.scorer, grid.workload, [unit], Path(place) / "run").stages
    note("host, s", {**found, **{part: seconds for part, seconds in stages.items() if part != "rendering"}})
