"""Does work units in three steps: prepare (render, lay out), compute (the model), commit (judge, write).

`Worker.run_unit` takes one step after the other; a `harness.running.pipeline.Pipeline` takes those of
different units at the same time. The same object serves a Ray actor and inline mode.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from harness.core.errors import ENDS_THE_RUN, ContextError
from harness.core.foreign import panics_as_errors
from harness.core.task import Sample, Task, find_task
from harness.core.task_options import configured
from harness.engine.protocol import EngineFacts, Scores
from harness.engine.registry import find_engine
from harness.planning.units import WorkUnit
from harness.prompts.demonstrations import PoolDraw
from harness.prompts.prompt import Prompt
from harness.prompts.rendering import Renderer
from harness.prompts.tokenizing import PromptTokenizer
from harness.results.schema import Record, UnitStatistics, to_table
from harness.results.store import RunStore
from harness.running.asking import Asking, Asks, open_settings
from harness.running.failures import check_usable
from harness.running.judging import Judge, failed, failure, place_of
from harness.running.messages import Handling, LectureTable, UnitReport, WorkerSpec, note_name, process_name, write_note
from harness.running.work import Batch, Found, Work


class UnitWorker(ABC):
    """The three steps of a unit, whatever is asked of its samples: prompts, or nothing but their texts.

    Attributes:
        spec: the run's settings.
        draw: demonstrations, or labelled rows.
        task: whose samples they are.
        store: of the run directory.
        facts: what was opened, and on what.
        asking: puts questions to it.
    """

    spec: WorkerSpec
    draw: PoolDraw
    task: Task
    store: RunStore
    facts: EngineFacts
    asking: Asks

    def _take(self, spec: WorkerSpec, draw: PoolDraw) -> None:
        self.spec, self.draw = spec, draw
        self.task, _ = configured(find_task(spec.config.task.name), spec.config.task)
        self.store = RunStore(spec.config.run_dir)
        self._has_scored = False
        self._computing: Work | None = None
        self._begun: dict[str, Work] = {}

    def under_way(self) -> dict[str, int]:
        """Prompts that have gone through the model, of each unit that is not committed by its id; for any thread."""
        return {unit_id: work.n_under_way for unit_id, work in self._begun.copy().items()}

    def _told(self, n_prompts: int) -> None:
        """The engine says that so many more prompts have gone through."""
        if self._computing is not None:
            self._computing.n_through += n_prompts

    @abstractmethod
    def _prompts(self, work: Work, samples: Sequence[Sample], ks: Sequence[int | None]) -> list[Any]:
        """What is asked of some samples, sample by sample; each has `sample` and `k`.

        Raises:
            ContextError: one is too long.
        """

    @abstractmethod
    def _n_tokens(self, found: Found) -> int:
        """Tokens of what was asked."""

    @abstractmethod
    def _records(self, unit: WorkUnit, found: Found) -> list[Record]:
        """What was found, judged."""

    def run_unit(
        self, unit: WorkUnit, samples: Sequence[Sample], lecture: LectureTable | None, handling: Handling | None = None
    ) -> UnitReport:
        """Score a unit's prompts and commit its records; a unit that is committed is left as it is.

        Raises:
            BrokenDeviceError: the device failed for good; nothing is committed.
        """
        work = self.prepare(unit, samples, lecture, handling)
        self.compute(work)
        return self.commit(work)

    def prepare(
        self, unit: WorkUnit, samples: Sequence[Sample], lecture: LectureTable | None, handling: Handling | None
    ) -> Work:
        """Render and lay out a unit's prompts; the model is left alone.

        A unit taken sample by sample is not prepared: its samples are taken when it is computed.
        """
        handling = handling or Handling()
        if handling.again is not None:
            samples = [sample for sample in samples if sample.id in handling.again]
        work = Work(unit, samples, lecture, handling)
        with work.working():
            if handling.again is None and self.store.exists("parts", f"{unit.id}.parquet"):
                work.report = UnitReport(unit.id, UnitStatistics(**self.store.read_statistics(unit.id)))
            elif not handling.alone:
                work.batches = self._together(work, handling)
        return work

    def compute(self, work: Work) -> None:
        """Put a unit's prompts through the model.

        Raises:
            BrokenDeviceError: the device failed for good.
        """
        self._computing = self._begun[work.unit.id] = work
        try:
            with work.working():
                if work.report is None and work.handling.alone:
                    self._compute_alone(work, work.handling)
                self._compute_batches(work)
        except BaseException:
            del self._begun[work.unit.id]
            raise
        finally:
            self._computing = None

    def commit(self, work: Work) -> UnitReport:
        """Judge what was found and write the unit's part."""
        try:
            return self._commit(work)
        finally:
            self._begun.pop(work.unit.id, None)

    def _commit(self, work: Work) -> UnitReport:
        if work.report is not None:
            return work.report
        with work.working():
            self._judge(work)
            records = work.records
            table = to_table(records)
        failures = [r for r in records if r.error is not None]
        if not self._has_scored and work.handling.again is None:
            check_usable(self.spec.model.name, [(r.error_type, r.error) for r in failures], len(records))
            self._has_scored = len(failures) < len(records)
        statistics = work.statistics(records)
        if work.handling.again is None:
            keys = dict(zip(work.unit.ks, work.unit.keys, strict=True))
            self.store.write_part(work.unit.id, table, asdict(statistics), keys)
        else:
            self.store.amend_part(work.unit.id, table, asdict(statistics))
        return UnitReport(
            work.unit.id,
            statistics,
            tuple(
                f"{place_of(r.model, r.template, r.k)} sample {r.sample_id}: {r.error_type}: {r.error}"
                for r in failures[:3]
            ),
        )

    def _compute_alone(self, work: Work, handling: Handling) -> None:
        """Sample by sample, each noted before it is tried and judged at once: the note survives this process."""
        unit = work.unit
        work.found += self._left_out(work, handling)
        tried = {sample.id: sample for sample in work.samples}
        for verdict in handling.out:
            tried.pop(verdict.sample, None)
        together = [tried.pop(id_) for id_ in list(tried) if id_ in handling.last]
        first = [tried.pop(id_) for id_ in handling.first if id_ in tried]
        groups = [[sample] for sample in (*first, *tried.values())] + ([together] if together else [])
        for group in groups:
            noted = group[0].id if group is not together else None
            write_note(self.store, unit.id, noted, process_name())
            work.batches = self._batches(work, group, unit.ks)
            self._compute_batches(work)
            self._judge(work)
        self.store.remove(note_name(unit.id))

    def _together(self, work: Work, handling: Handling) -> list[Batch | Record]:
        """All samples of a unit, and the records of those that are out."""
        out = {verdict.sample for verdict in handling.out}
        kept = [sample for sample in work.samples if sample.id not in out]
        return [*(self._batches(work, kept, work.unit.ks) if kept else []), *self._left_out(work, handling)]

    def _left_out(self, work: Work, handling: Handling) -> list[Record]:
        """The records of samples that are out."""
        samples = {sample.id: sample for sample in work.samples}
        return [
            failure(work.unit, samples[verdict.sample], k, verdict.error_type, verdict.error)
            for verdict in handling.out
            if verdict.sample in samples
            for k in work.unit.ks
        ]

    def _batches(self, work: Work, samples: Sequence[Sample], ks: Sequence[int | None]) -> list[Batch | Record]:
        """Samples x ks ready for the engine; when that raises, halved until the culprit is alone."""
        try:
            with panics_as_errors():
                return [self._batch(self._prompts(work, samples, ks), len(ks))]
        except Exception as error:
            if len(samples) * len(ks) == 1:
                return [failed(work.unit, samples[0], ks[0], error)]
        middle = (len(samples) if len(samples) > 1 else len(ks)) // 2
        if len(samples) > 1:
            halves = [(samples[:middle], ks), (samples[middle:], ks)]
        else:
            halves = [(samples, ks[:middle]), (samples, ks[middle:])]
        return [batch for half in halves for batch in self._batches(work, *half)]

    def _batch(self, prompts: list[Any], n_ks: int) -> Batch:
        return Batch(prompts, n_ks, self.asking.prepare(prompts))

    def _compute_batches(self, work: Work) -> None:
        for batch in work.batches:
            work.found += [batch] if isinstance(batch, Record) else self._compute_batch(work, batch)
        work.batches = []

    def _compute_batch(self, work: Work, batch: Batch) -> list[Found | Record]:
        """What the engine finds; when it raises, the batch is halved until the culprit is alone."""
        try:
            with work.scoring(), self.asking.paying(work.pay):
                result = self.asking.ask(batch.prompts, batch.prepared)
            work.tokens_computed += result.tokens_computed
            return [Found(batch.prompts, result)]
        except ENDS_THE_RUN:
            raise
        except Exception as error:
            halves = batch.halves()
            if not halves:
                return [failed(work.unit, batch.prompts[0].sample, batch.prompts[0].k, error)]
        return [found for half in halves for found in self._compute_batch(work, self._batch(*half))]

    def _judge(self, work: Work) -> None:
        """Turn what was found into records."""
        for found in work.found:
            if isinstance(found, Record):
                work.records.append(found)
                work.n_prompts += 1
                continue
            work.n_prompts += len(found.prompts)
            work.prompt_tokens += self._n_tokens(found)
            work.records += self._records(work.unit, found)
        work.found = []


class Worker(UnitWorker):
    """One loaded model that does work units.

    Args:
        spec: the run's settings.
        draw: policy and demonstration pool.

    Raises:
        BrokenDeviceError: the device is of no use to this process.
    """

    def __init__(self, spec: WorkerSpec, draw: PoolDraw) -> None:
        self._take(spec, draw)
        engine = find_engine(spec.model.engine)
        self.tokenizer = PromptTokenizer(engine.describe(spec.model).tokenizer, spec.chat_time)
        self.judge = Judge(self.task, self.tokenizer, spec.config.generation)
        settings = open_settings(spec.config.engine, spec.longest_prompt, threads=spec.threads, tokens=spec.tokens)
        opened = engine.open(spec.model, replace(settings, method=spec.method, spent=spec.spent))
        opened.watch(self._told)
        self.facts = opened.facts
        self.asking: Asking = Asking(opened, spec.method, self.task, spec.config.generation, self.tokenizer)
        self._renderers: dict[str, Renderer] = {}

    def _renderer(self, template: str, lecture: LectureTable | None) -> Renderer:
        if lecture is not None:
            return self._new_renderer(template, lecture)
        if template not in self._renderers:
            self._renderers[template] = self._new_renderer(template, None)
        return self._renderers[template]

    def _new_renderer(self, template: str, lecture: LectureTable | None) -> Renderer:
        largest = max(self.spec.config.grid.k)
        return Renderer(self.spec.templates[template], self.draw, largest, self.tokenizer, lecture)

    def _prompts(self, work: Work, samples: Sequence[Sample], ks: Sequence[int | None]) -> list[Prompt]:
        template, seed = work.unit.template, work.unit.seed
        assert template is not None and seed is not None, "a unit of prompts"
        renderer = self._renderer(template, work.lecture)
        prompts = renderer.prompts(samples, seed, [k for k in ks if k is not None])
        for prompt in prompts:
            self._check_length(prompt)
        return prompts

    def _n_tokens(self, found: Found) -> int:
        return sum(len(prompt.ids) for prompt in found.prompts)

    def _records(self, unit: WorkUnit, found: Found) -> list[Record]:
        if isinstance(found.result, Scores):
            return self.judge.by_labels(unit, found.prompts, found.result)
        return self.judge.by_answers(unit, found.prompts, found.result)

    def _check_length(self, prompt: Prompt) -> None:
        limit = self.spec.context_length
        longest = len(prompt.ids) + self.asking.most_new_tokens([prompt]) - 1
        if limit is not None and longest > limit:
            raise ContextError(f"prompt and answer have {longest} tokens, the model's context {limit}")
