"""Units of a grid from samples to committed records, as a replica does them, without Ray and a configuration.

While the device scores a unit, one thread prepares the next and another writes the last, as in
`harness.running.pipeline`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.core.task import LabelScores, Sample
from harness.engine.local.scorer import Prepared, Scorer
from harness.engine.local.tree.readouts import origins
from harness.engine.protocol import Scores
from harness.prompts.prompt import Prompt
from harness.prompts.rendering import Renderer
from harness.prompts.tokenizing import PromptTokenizer
from harness.results.schema import Record, UnitStatistics, to_table
from harness.results.store import RunStore
from tasks.nsmc import TASK
from tests.bench.workloads import Workload

RENDERING, TREES, SCORING, RECORDS = "rendering", "trees", "scoring", "records"


@dataclass(frozen=True)
class Unit:
    """All K of one seed over some samples; K=0 with the first seed only."""

    id: str
    seed: int
    ks: tuple[int, ...]
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Run:
    """What some units took.

    Attributes:
        seconds: from the first sample to the last committed record.
        stages: seconds of each, which overlap.
        n_prompts, tokens_computed: of all units.
        records: rows that were written.
    """

    seconds: float
    stages: dict[str, float]
    n_prompts: int
    tokens_computed: int
    records: int


def make_units(workload: Workload, seeds: Sequence[int], shard: int) -> list[Unit]:
    """The grid's units, seed by seed, so that each seed's demonstrations stay in memory."""
    units = []
    for place, seed in enumerate(seeds):
        ks = tuple(k for k in workload.ks if k or place == 0)
        for start in range(0, len(workload.samples), shard):
            samples = tuple(workload.samples[start : start + shard])
            units.append(Unit(f"{seed}-{start}", seed, ks, samples))
    return units


def render_units(workload: Workload, units: Sequence[Unit]) -> list[list[Prompt]]:
    """The prompts of every unit, by a renderer that remembers nothing of before."""
    renderer = _renderer(workload)
    return [renderer.prompts(unit.samples, unit.seed, unit.ks) for unit in units]


def run_units(scorer: Scorer, workload: Workload, units: Sequence[Unit], folder: Path) -> Run:
    """Do units.

    Args:
        scorer: holds the model; what it remembers of earlier units it keeps.
        workload: template, draw and tokenizer.
        units: at least one.
        folder: of the records, a new one.
    """
    store = RunStore(str(folder))
    store.create()
    renderer, judge = _renderer(workload), _Judge(workload)
    stages: dict[str, float] = defaultdict(float)
    n_prompts = computed = 0

    def prepare(unit: Unit) -> tuple[list[Prompt], Prepared]:
        began = time.perf_counter()
        prompts = renderer.prompts(unit.samples, unit.seed, unit.ks)
        rendered = time.perf_counter()
        prepared = scorer.prepare([p.ids for p in prompts], [p.label_ids for p in prompts], origins(prompts))
        stages[RENDERING] += rendered - began
        stages[TREES] += time.perf_counter() - rendered
        return prompts, prepared

    def write(unit: Unit, prompts: list[Prompt], scores: Scores, seconds: float) -> int:
        began = time.perf_counter()
        records = judge.records(unit, prompts, scores)
        tokens = sum(len(p.ids) for p in prompts)
        statistics = UnitStatistics(
            len(records), 0, len(prompts), tokens, scores.tokens_computed, seconds, seconds, "gpu-check"
        )
        store.write_part(unit.id, to_table(records), asdict(statistics))
        stages[RECORDS] += time.perf_counter() - began
        return len(records)

    started = time.perf_counter()
    with ThreadPoolExecutor(1) as before, ThreadPoolExecutor(1) as after:
        ahead = before.submit(prepare, units[0])
        written: list[Future[int]] = []
        for place, unit in enumerate(units):
            prompts, prepared = ahead.result()
            if place + 1 < len(units):
                ahead = before.submit(prepare, units[place + 1])
            began = time.perf_counter()
            scores = scorer.compute(prepared)
            seconds = time.perf_counter() - began
            stages[SCORING] += seconds
            written.append(after.submit(write, unit, prompts, scores, seconds))
            n_prompts += len(prompts)
            computed += scores.tokens_computed
        n_records = sum(future.result() for future in written)
    return Run(time.perf_counter() - started, dict(stages), n_prompts, computed, n_records)


def _renderer(workload: Workload) -> Renderer:
    return Renderer(workload.template, workload.draw, max(workload.ks), PromptTokenizer(workload.tokenizer))


class _Judge:
    """Turns scores into records."""

    def __init__(self, workload: Workload) -> None:
        self.template = workload.template
        self.tokenizer = PromptTokenizer(workload.tokenizer)
        self.texts: dict[int, str] = {}

    def records(self, unit: Unit, prompts: list[Prompt], scores: Scores) -> list[Record]:
        """One record per prompt."""
        logprobs, tokens, off = scores.logprobs.tolist(), scores.argmax.tolist(), scores.off_label_mass.tolist()
        found = []
        for place, prompt in enumerate(prompts):
            counts = [len(ids) for ids in prompt.label_ids]
            judged = LabelScores(tuple(logprobs[place]), tuple(counts), tokens[place], off[place])
            found.append(
                Record(
                    "random", TASK.name, self.template.name, prompt.k, unit.seed, prompt.sample.id,
                    prompt.sample.gold, TASK.score(judged), logprobs[place], counts, tokens[place],
                    self._text(tokens[place]), None, off[place], len(prompt.ids),
                )
            )  # fmt: skip
        return found

    def _text(self, token: int) -> str:
        if token not in self.texts:
            self.texts[token] = self.tokenizer.decode_token(token)
        return self.texts[token]
