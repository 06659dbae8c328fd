"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import copy
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from harness.engine.factory import load_engine
from harness.engine.loading import ModelSpec
from tests.bench import lm_evaluation, machine, page
from tests.bench.clock import CLOCKS, make_clock
from tests.bench.contenders import Contender, NotebookLoop, PaddedBatches, SharingOff, Subject, ThisProject
from tests.bench.measuring import compare
from tests.bench.models import NAMES, REPO, model_folder
from tests.bench.profiling import Profile, profiled
from tests.bench.workloads import KINDS, make_workload

CONTENDERS = ("notebook", "padded", "lm-eval", "off", "own")
PAGE = REPO / "docs" / "performance.md"
RAY = "ray"
LETTERS = (*KINDS, RAY)
CPU = (
    ("a", "embedded", 500),
    ("a", "40m", 500),
    ("a", "160m", 100),
    ("b", "40m", 40),
    ("c", "embedded", 1000),
    ("d", "40m", 500),
    ("d-drawn", "40m", 60),
    ("e", "40m", 40),
    (RAY, "40m", 64),
)
GPU = tuple((letter, model, None) for model in ("1.3b", "5.8b") for letter in ("a", "b", "c", "d", "d-drawn", "e"))


Cases = list[tuple[str, int | None]]
"""Workload and samples; None takes the workload's own number."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the arguments ask for."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _options(given)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU is visible to torch: make bench-gpu needs one (make bench measures the CPU)")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if options.threads:
        torch.set_num_threads(options.threads)
    own = machine.describe(options.device)
    stamp = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", "-m", "tests.bench", *(x for x in given if x != "--write")]),
    }
    started = time.monotonic()
    for model in dict.fromkeys(model for _, model, _ in options.cases):
        cases = [(letter, samples) for letter, name, samples in options.cases if name == model]
        for key, result in chain(_measure_model(model, cases, options), _measure_ray(model, cases, options)):
            found = page.store(options.results, own, {key: {**stamp, **result}})
            print(page.render({**found, "results": {key: found["results"][key]}}), flush=True)
    print(f"{time.monotonic() - started:.0f} s; results in {options.results}")
    if options.write:
        page.write(options.page, f"bench {options.device}", found)


def _measure_ray(model: str, cases: Cases, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    for letter, samples in cases:
        if letter == RAY:
            from tests.bench.ray_share import measure_ray_share

            tell = _teller(f"{model}, float32: a run of the harness beside the engine alone")
            yield f"{RAY} {model}", measure_ray_share(model, options.samples or samples or 64, options.rounds, tell)


def _measure_model(model: str, cases: Cases, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    cases = [case for case in cases if case[0] != RAY]
    if not cases:
        return
    with model_folder(model, options.dtype, options.device) as folder:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        began = time.perf_counter()
        spec = ModelSpec(str(folder), dtype=options.dtype, device=options.device)
        scorer, facts = load_engine(spec, True, None, 2048, options.threads)
        print(f"{model}: {facts}; loaded in {time.perf_counter() - began:.1f} s", flush=True)
    if not facts.shares_prefixes:
        raise SystemExit(f"{model} is not shared: {facts.sharing_notice}")
    now = make_clock(options.clock, options.device)
    for letter, samples in cases:
        context = scorer.model.config.get_text_config().max_position_embeddings
        workload = make_workload(letter, tokenizer, context, options.samples or samples, options.data)
        subject = Subject(scorer.model, tokenizer, workload, workload.render(), now)
        tell = _teller(f"({letter}) {model}, {options.dtype}: {len(subject.prompts):,} prompts")
        reference = None
        if options.dtype != "float32":
            reference = Subject(copy.deepcopy(scorer.model).float(), tokenizer, workload, subject.prompts, now)
        profile = Profile(now)
        on_cpu = options.device == "cpu"
        own = ThisProject(subject, scorer)
        if not on_cpu:
            began = now()
            own.run([])
            tell(f"  warm-up: {now() - began:.1f} s")
        contenders = _contenders(options.contenders, subject, own, facts.tokens_per_pack)
        found = compare(
            subject,
            contenders,
            facts.tokens_per_pack,
            options.rounds,
            options.seconds,
            reference,
            (lambda profile=profile: profiled(scorer, profile)) if on_cpu else nullcontext,
            tell,
        )
        if not on_cpu:
            with profiled(scorer, profile):
                own.run([])
        yield (
            f"{letter} {model} {options.dtype}",
            {
                "kind": "comparison",
                "letter": letter,
                "title": workload.title,
                "data": workload.data,
                "model": model,
                "dtype": options.dtype,
                "n_samples": len(workload.samples),
                "new_tokens": workload.new_tokens,
                "tokens_per_pack": facts.tokens_per_pack,
                "clock": options.clock,
                "profile": profile.shares(),
                **asdict(found),
            },
        )


def _contenders(names: Sequence[str], subject: Subject, own: ThisProject, tokens_per_pack: int) -> list[Contender]:
    made: list[Contender] = []
    if "notebook" in names:
        made.append(NotebookLoop(subject))
    if "padded" in names:
        made.append(PaddedBatches(subject))
    if "lm-eval" in names and lm_evaluation.installed():
        made.append(lm_evaluation.LmEvaluationHarness(subject))
    if "off" in names:
        made.append(SharingOff(subject, tokens_per_pack))
    return [*made, own]


def _teller(title: str) -> Any:
    print(title, flush=True)
    return lambda text: print(text, flush=True)


def _options(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workloads", type=_names(LETTERS), help=f"of {', '.join(LETTERS)}")
    parser.add_argument("--models", type=_names(NAMES), help=f"of {', '.join(NAMES)}")
    parser.add_argument("--contenders", type=_names(CONTENDERS), default=CONTENDERS, help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--samples", type=int, help="samples of each workload")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="float32 on CPUs, bfloat16 on GPUs")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice by default")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for a machine that is busy besides")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each contender on a part, each round")
    parser.add_argument("--data", type=Path, help="folder that holds nsmc/ and korquad1/ with the official files")
    parser.add_argument("--results", type=Path, help="JSON file that collects results")
    parser.add_argument("--write", action="store_true", help="write the results into the page")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(given)
    on_cpu = options.device == "cpu"
    options.dtype = options.dtype or ("float32" if on_cpu else "bfloat16")
    options.results = options.results or REPO / "data_out" / "bench" / f"{options.device}.json"
    options.cases = _cases(CPU if on_cpu else GPU, options.workloads, options.models)
    return options


def _cases(default: Any, workloads: Sequence[str] | None, models: Sequence[str] | None) -> list[Any]:
    """Pairs of workload and model: the default's, or all of those asked for."""
    if not workloads and not models:
        return list(default)
    samples = {(letter, model): n for letter, model, n in default}
    letters = workloads or sorted({letter for letter, _, _ in default})
    names = models or sorted({model for letter, model, _ in default if letter in letters})
    return [(letter, model, samples.get((letter, model))) for model in names for letter in letters]


def _names(known: Sequence[str] | Any) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        wrong = [name for name in names if name not in known]
        if wrong:
            raise argparse.ArgumentTypeError(f"'{wrong[0]}' is none of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    main()
