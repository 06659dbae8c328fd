"""The lecture's grid, K = 0 to 32, from samples to records: speed, share of the limit, memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import torch

from harness.engine.local.memory import PackLoad, predict, shape_of_config
from harness.engine.local.scorer import Scorer
from harness.engine.local.tree.readouts import forks_of, origins, sequences_of
from harness.engine.local.tree.tree import build_forked_tree
from harness.prompts.prompt import Prompt
from tests.bench.limit import Work, count_work
from tests.bench.workloads import Workload
from tests.gpu.device import CUDA, DEVICE, SIZES, free_memory, peak_bytes
from tests.gpu.end_to_end import Run, Unit, make_units, render_units, run_units
from tests.gpu.kernels import trying
from tests.gpu.large import LONGEST, Large, llama, neox
from tests.gpu.reviews import lecture_grid
from tests.gpu.steps import Note, SkippedError, WrongError

MEMORY_PACKS = (4096, 16384)
ALLOWED = 0.15
"""Share by which the prediction may miss the measured peak."""


@dataclass(frozen=True)
class Grid:
    """The grid that a model is timed on."""

    workload: Workload
    units: list[Unit]
    work: Work
    least: int
    """Tokens that prompts cut at fixed places need, all samples of a seed in one unit."""


def load_neox(note: Note) -> None:
    """PackLoad the model: what the engine chose, the peak of its products."""
    note("engine", neox().describe())


def load_llama(note: Note) -> None:
    """PackLoad the model: what the engine chose, the peak of its products."""
    note("engine", llama().describe())


def grid_of_neox(note: Note) -> None:
    """The grid with the kernel that the engine chose."""
    large = neox()
    _time_chosen(large, make_grid(large, SIZES.samples, SIZES.seeds), note)


def other_kernels_of_neox(note: Note) -> None:
    """The grid with every kernel that was not chosen."""
    large = neox()
    grid = make_grid(large, SIZES.samples, SIZES.seeds)
    wrong: list[str] = []
    for name, scorer in large.other_scorers():
        if isinstance(scorer, str):
            note(name, scorer)
            continue
        with trying(note, name, wrong):
            note(name, _time(scorer, grid, large.peak, 1))
    if wrong:
        raise WrongError("; ".join(wrong))


def grid_of_llama(note: Note) -> None:
    """The grid with the kernel that the engine chose."""
    large = llama()
    _time_chosen(large, make_grid(large, SIZES.reviews, SIZES.seeds[:1]), note)


def memory_of_neox(note: Note) -> None:
    """Predicted and measured peaks of one unit, with packs of two sizes."""
    if not CUDA:
        raise SkippedError("torch counts the memory of GPUs only")
    large = neox()
    grid = make_grid(large, SIZES.shard, SIZES.seeds[:1])
    prompts = render_units(grid.workload, grid.units[:1])[0]
    contexts, labels = [p.ids for p in prompts], [p.label_ids for p in prompts]
    model = large.scorer.model
    shape = shape_of_config(model.config, sum(p.numel() for p in model.parameters()))
    weights = sum(p.nbytes for p in model.parameters())
    wrong = []
    for size in MEMORY_PACKS:
        free_memory()
        before = torch.cuda.memory_allocated()
        scorer = Scorer(model, size, True, large.scorer.kernel)
        computed = scorer.score(contexts, labels, origins(prompts)).tokens_computed
        # Beside it lie the scorer that was loaded first and a copy of the model.
        measured = weights + peak_bytes() - before
        load = PackLoad(size, max(map(len, contexts)), computed, 0, len(contexts) / computed)
        need = predict(shape, str(model.dtype).removeprefix("torch."), DEVICE.type, True, load, scorer.kernel.name)
        off = (need.total - need.host) / measured - 1
        note(f"packs of {size}", {"measured, GB": measured / 1e9, "predicted, GB": (need.total - need.host) / 1e9,
                                  "off": off})  # fmt: skip
        if abs(off) > ALLOWED:
            wrong.append(f"with packs of {size} the prediction is {off:+.0%} off")
        del scorer
    if wrong:
        raise WrongError("; ".join(wrong))


def make_grid(large: Large, reviews: int, seeds: Sequence[int]) -> Grid:
    """The units of a model's grid, and the operations they need at least."""
    workload = lecture_grid(large.tokenizer, LONGEST, reviews)
    units = make_units(workload, seeds, SIZES.shard)
    prompts = chain.from_iterable(render_units(workload, units))
    whole = render_units(workload, make_units(workload, seeds, len(workload.samples)))
    return Grid(workload, units, count_work(large.plain, [p.ids for p in prompts], 0), sum(map(fewest_tokens, whole)))


def fewest_tokens(prompts: Sequence[Prompt]) -> int:
    """Tokens of prompts that share what they have in common by design, and no accidental beginnings of reviews."""
    contexts, labels, may_share = [p.ids for p in prompts], [p.label_ids for p in prompts], origins(prompts)
    assert may_share is not None
    sequences, firsts, _ = sequences_of(contexts, labels)
    return build_forked_tree(sequences, forks_of(len(sequences), firsts, contexts, may_share)).n_tokens


def _time_chosen(large: Large, grid: Grid, note: Note) -> None:
    note("grid", {"samples": len(grid.workload.samples), "data": grid.workload.data, "units": len(grid.units),
                  "tokens": grid.work.tokens, "unique tokens": grid.work.unique})  # fmt: skip
    note("chosen", large.scorer.kernel.name)
    note(large.scorer.kernel.name, _time(large.scorer, grid, large.peak, SIZES.repeats))


def _time(scorer: Scorer, grid: Grid, peak: float, repeats: int) -> dict[str, Any]:
    """Figures of the grid with one kernel.

    Args:
        peak: operations per second of the weights' own products.
        repeats: of the run after the first; the median counts.
    """
    free_memory()
    limit_s = (grid.work.linear + grid.work.head) / peak
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as place:

        def run(name: str) -> Run:
            return run_units(scorer, grid.workload, grid.units, Path(place) / name)

        first = run("first")
        runs = [run(f"again-{turn}") for turn in range(repeats)]
    seconds = median(r.seconds for r in runs)
    middle = min(runs, key=lambda r: abs(r.seconds - seconds))
    return {
        "prompts": middle.n_prompts,
        "records": middle.records,
        "seconds": seconds,
        "first run, s": first.seconds,
        "prompts/s": middle.n_prompts / seconds,
        "of the limit": limit_s / seconds,
        "computed/unique": first.tokens_computed / grid.work.unique,
        "computed/least": first.tokens_computed / grid.least,
        "stages, s": middle.stages,
        "tokens per pack": scorer.tokens_per_pack,
        "peak, GB": peak_bytes() / 1e9,
    }
