"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import copy
import os
import shlex
import sys
import time
from collections.abc import Collection, Iterator, Sequence
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

from harness.core.errors import UserError
from harness.engine.local.loading import ModelSpec, load_model
from harness.engine.local.opening import load_engine
from harness.engine.local.scorer import Scorer
from tests.bench import lm_evaluation, machine, page
from tests.bench.cases import LETTERS, RAY, Case, choose_cases
from tests.bench.clock import CLOCKS, make_clock
from tests.bench.contenders import Answer, Contender, NotebookLoop, PaddedBatches, SharingOff, Subject, ThisProject
from tests.bench.measuring import compare, first_prompts
from tests.bench.models import NAMES, REPO, model_folder
from tests.bench.profiling import Profile, profiled
from tests.bench.workloads import make_workload

CONTENDERS = ("notebook", "padded", "lm-eval", "off", "own")
PAGE = REPO / "docs" / "performance.md"
LONGEST = 2048
Result = tuple[str, dict[str, Any]]
"""Key and figures of one case."""


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
        "command": _command(given),
    }
    found: dict[str, Any] = {}
    started = time.monotonic()
    try:
        for key, result in _measure(options):
            found = page.store(options.results, own, {key: {**stamp, **result}})
            print(page.render({**found, "results": {key: found["results"][key]}}), flush=True)
    except UserError as error:
        raise SystemExit(str(error)) from None
    print(f"{time.monotonic() - started:.0f} s; results in {options.results}")
    if options.write:
        page.write(options.page, f"bench {options.device}", page.render(found))


def _measure(options: argparse.Namespace) -> Iterator[Result]:
    cases = choose_cases(options.device, options.workloads, options.models, options.samples, options.dtype)
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        if case.letter != RAY:
            groups.setdefault((case.model, case.dtype), []).append(case)
    yield from chain.from_iterable(_measure_model(model, dtype, g, options) for (model, dtype), g in groups.items())
    for case in cases:
        if case.letter == RAY:
            from tests.bench.ray_share import SHARD, measure_ray_share

            _tell(f"(ray) {case.model}, float32: a run of the harness beside the engine alone")
            yield f"ray {case.model}", measure_ray_share(case.model, case.samples or 3 * SHARD, options.rounds, _tell)


def _measure_model(model: str, dtype: str, cases: list[Case], options: argparse.Namespace) -> Iterator[Result]:
    now = make_clock(options.clock, options.device)
    with model_folder(model, dtype, options.device) as folder:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        began = now()
        spec = ModelSpec(str(folder), dtype=dtype, device=options.device)
        scorer, facts = load_engine(spec, True, None, LONGEST, options.threads)
        _tell(f"{model}: {facts}; loaded in {now() - began:.1f} s")
        plain = scorer.model if options.device == "cuda" else load_model(spec)
    if not facts.shares_prefixes:
        raise SystemExit(f"{model} is not shared: {facts.sharing_notice}")
    for case in cases:
        workload = make_workload(case.letter, tokenizer, LONGEST, case.samples, options.data)
        subject = Subject(plain, scorer.model, tokenizer, workload, workload.render(), now)
        _tell(f"({case.letter}) {model}, {dtype}: {len(subject.prompts):,} prompts")
        truth = None if dtype == "float32" else _in_float32(subject, options.rounds)
        own, profile = ThisProject(subject, scorer), Profile(now)
        contenders = _contenders(options.contenders, subject, own, facts.tokens_per_pack)
        profiles_while_timed = options.device == "cpu"
        if not profiles_while_timed:
            began = now()
            own.run([])
            _tell(f"  warm-up: {now() - began:.1f} s")
        found = compare(
            subject,
            contenders,
            facts.tokens_per_pack,
            options.rounds,
            options.seconds,
            truth,
            _watch(scorer, profile) if profiles_while_timed else nullcontext,
            _tell,
        )
        if not profiles_while_timed:
            with profiled(scorer, profile):
                own.run([])
        yield (
            f"{case.letter} {model} {dtype}",
            {
                "kind": "comparison",
                "letter": case.letter,
                "title": workload.title,
                "data": workload.data,
                "model": model,
                "dtype": dtype,
                "n_samples": len(workload.samples),
                "new_tokens": workload.new_tokens,
                "tokens_per_pack": facts.tokens_per_pack,
                "clock": options.clock,
                "profile": profile.shares(),
                **asdict(found),
            },
        )


def _in_float32(subject: Subject, rounds: int) -> dict[int, Answer]:
    """What the same weights answer in float32, one prompt at a time, to the prompts that all contenders get."""
    model = copy.deepcopy(subject.model).float()
    reference = Subject(model, model, subject.tokenizer, subject.workload, subject.prompts, subject.now)
    answers = NotebookLoop(reference).run([first_prompts(subject, rounds)]).answers
    del model, reference
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return answers


def _watch(scorer: Scorer, profile: Profile) -> Any:
    return lambda: profiled(scorer, profile)


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


def _command(given: Sequence[str]) -> str:
    """The command as others would give it: without what only says where files lie here."""
    kept, rest = [], iter(given)
    for word in rest:
        name = word.partition("=")[0]
        if name in ("--results", "--page", "--data") and "=" not in word:
            next(rest, None)
        if name == "--data":
            kept += ["--data", "DIR"]
        elif name not in ("--results", "--page", "--write"):
            kept.append(word)
    return shlex.join(["python", "-m", "tests.bench", *kept])


def _tell(text: str) -> None:
    print(text, flush=True)


def _options(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="See docs/performance.md.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workloads", type=_names(LETTERS), help=f"of {', '.join(LETTERS)}")
    parser.add_argument("--models", type=_names(NAMES), help=f"of {', '.join(NAMES)}")
    parser.add_argument("--contenders", type=_names(CONTENDERS), default=CONTENDERS, help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--samples", type=int, help="samples of each workload")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice by default")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for a machine that is busy besides")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a round for each contender but this project")
    parser.add_argument("--data", type=Path, help="folder that holds nsmc/ and korquad1/ with the official files")
    parser.add_argument("--results", type=Path, help="JSON file that collects results")
    parser.add_argument("--write", action="store_true", help="write the collected results into the page")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(given)
    options.results = options.results or REPO / "data_out" / "bench" / f"{options.device}.json"
    return options


def _names(known: Collection[str]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        wrong = [name for name in names if name not in known]
        if wrong:
            raise argparse.ArgumentTypeError(f"'{wrong[0]}' is none of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    main()
