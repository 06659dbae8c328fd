"""Does work units in three steps: prepare (render, lay out), compute (the model), commit (judge, write).

`Worker.run_unit` takes one step after the other; a `harness.running.pipeline.Pipeline` takes those of
different units at the same time. The same object serves a Ray actor and inline mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from transformers import AutoTokenizer

from harness.core.errors import BrokenDeviceError, ContextError, ModelError
from harness.core.task import Sample, find_task
from harness.engine.local.device_errors import naming_broken_devices
from harness.engine.local.generator import Generations, Generator
from harness.engine.local.loading import ModelSpec
from harness.engine.local.opening import load_engine
from harness.engine.local.scorer import Scores
from harness.planning.units import WorkUnit
from harness.prompts.demonstrations import Draw
from harness.prompts.endings import StopTexts, turn_ends
from harness.prompts.rendering import Prompt, Renderer
from harness.prompts.tokenizing import PromptTokenizer
from harness.results.schema import Record, UnitStatistics, to_table
from harness.results.store import RunStore
from harness.running.failures import check_usable
from harness.running.judging import Judge, failed, failure
from harness.running.messages import Care, LectureTable, UnitReport, WorkerSpec, note_name
from harness.running.shared_prefixes import origins
from harness.running.work import Batch, Found, Work


class Worker:
    """One loaded model that does work units.

    Args:
        spec: the run's settings.
        draw: policy and demonstration pool.

    Raises:
        BrokenDeviceError: the device is of no use to this process.
    """

    def __init__(self, spec: WorkerSpec, draw: Draw) -> None:
        self.spec = spec
        self.draw = draw
        self.task = find_task(spec.config.task.name)
        self.store = RunStore(spec.config.run_dir)
        self.tokenizer = PromptTokenizer(_load_tokenizer(spec), spec.chat_time)
        self.judge = Judge(self.task, self.tokenizer, spec.config.generation)
        model, engine = spec.config.model, spec.config.engine
        with naming_broken_devices():
            self.scorer, self.facts = load_engine(
                ModelSpec(
                    spec.model,
                    model.revision,
                    model.dtype,
                    model.device,
                    model.trust_remote_code,
                    model.gpus_per_replica,
                ),
                engine.share_prefixes,
                None if engine.tokens_per_pack == "auto" else int(engine.tokens_per_pack),
                spec.longest_prompt,
                spec.threads,
            )
        self.generator = Generator(self.scorer, turn_ends(self.tokenizer.tokenizer))
        self.stops = StopTexts(self.tokenizer, spec.config.generation.stop)
        self._has_scored = False
        self._renderers: dict[str, Renderer] = {}

    def run_unit(
        self, unit: WorkUnit, samples: Sequence[Sample], lecture: LectureTable | None, care: Care | None = None
    ) -> UnitReport:
        """Score a unit's prompts and commit its records; a unit that is committed is left as it is.

        Raises:
            BrokenDeviceError: the device failed for good; nothing is committed.
        """
        work = self.prepare(unit, samples, lecture, care)
        self.compute(work)
        return self.commit(work)

    def prepare(
        self, unit: WorkUnit, samples: Sequence[Sample], lecture: LectureTable | None, care: Care | None
    ) -> Work:
        """Render and lay out a unit's prompts; the model is left alone.

        A unit taken with care is not prepared: its samples are taken one by one when it is computed.
        """
        work = Work(unit, samples, lecture, care)
        with work.working():
            if self.store.exists("parts", f"{unit.id}.parquet"):
                work.report = UnitReport(unit.id, UnitStatistics(**self.store.read_statistics(unit.id)))
            elif care is None:
                work.batches = self._batches(work, self._renderer(unit.template, lecture), samples, unit.ks)
        return work

    def compute(self, work: Work) -> None:
        """Put a unit's prompts through the model.

        Raises:
            BrokenDeviceError: the device failed for good.
        """
        with work.working():
            if work.report is None and work.care is not None:
                self._compute_with_care(work, work.care)
            self._compute_batches(work)

    def commit(self, work: Work) -> UnitReport:
        """Judge what was found and write the unit's part."""
        if work.report is not None:
            return work.report
        with work.working():
            self._judge(work)
            records = work.records
            table = to_table(records)
        failures = [r for r in records if r.error is not None]
        if not self._has_scored:
            check_usable(self.spec.model, [(r.error_type, r.error) for r in failures], len(records))
            self._has_scored = len(failures) < len(records)
        statistics = work.statistics(records)
        keys = dict(zip(work.unit.ks, work.unit.keys, strict=True))
        self.store.write_part(work.unit.id, table, asdict(statistics), keys)
        return UnitReport(
            work.unit.id,
            statistics,
            tuple(f"{r.template} K={r.k} sample {r.sample_id}: {r.error_type}: {r.error}" for r in failures[:3]),
        )

    def _renderer(self, template: str, lecture: LectureTable | None) -> Renderer:
        if lecture is not None:
            return self._new_renderer(template, lecture)
        if template not in self._renderers:
            self._renderers[template] = self._new_renderer(template, None)
        return self._renderers[template]

    def _new_renderer(self, template: str, lecture: LectureTable | None) -> Renderer:
        largest = max(self.spec.config.grid.k)
        return Renderer(self.spec.templates[template], self.draw, largest, self.tokenizer, lecture)

    def _compute_with_care(self, work: Work, care: Care) -> None:
        """Sample by sample, each noted before it is tried and judged at once: the note survives this process."""
        unit, renderer = work.unit, self._renderer(work.unit.template, work.lecture)
        for sample in work.samples:
            if sample.id in care.quarantined:
                text = "this sample kills the process of its replica"
                work.found += [failure(unit, sample, k, "ReplicaDied", text) for k in unit.ks]
            else:
                self.store.write_json(note_name(unit.id), {"sample": sample.id})
                work.batches = self._batches(work, renderer, [sample], unit.ks)
                self._compute_batches(work)
            self._judge(work)
        self.store.remove(note_name(unit.id))

    def _batches(
        self, work: Work, renderer: Renderer, samples: Sequence[Sample], ks: Sequence[int]
    ) -> list[Batch | Record]:
        """Samples x ks ready for the engine; when that raises, halved until the culprit is alone."""
        try:
            prompts = renderer.prompts(samples, work.unit.seed, ks)
            for prompt in prompts:
                self._check_length(prompt)
            return [self._batch(prompts, len(ks))]
        except Exception as error:
            if len(samples) * len(ks) == 1:
                return [failed(work.unit, samples[0], ks[0], error)]
        middle = (len(samples) if len(samples) > 1 else len(ks)) // 2
        if len(samples) > 1:
            halves = [(samples[:middle], ks), (samples[middle:], ks)]
        else:
            halves = [(samples, ks[:middle]), (samples, ks[middle:])]
        return [batch for half in halves for batch in self._batches(work, renderer, *half)]

    def _batch(self, prompts: list[Prompt], n_ks: int) -> Batch:
        if self.spec.method == "generate":
            return Batch(prompts, n_ks, None)
        ids, labels = [p.ids for p in prompts], [p.label_ids for p in prompts]
        return Batch(prompts, n_ks, self.scorer.prepare(ids, labels, origins(prompts)))

    def _compute_batches(self, work: Work) -> None:
        for batch in work.batches:
            work.found += [batch] if isinstance(batch, Record) else self._compute_batch(work, batch)
        work.batches = []

    def _compute_batch(self, work: Work, batch: Batch) -> list[Found | Record]:
        """What the engine finds; when it raises, the batch is halved until the culprit is alone."""
        try:
            with work.scoring(), naming_broken_devices():
                result, computed = self._ask(batch)
            work.tokens_computed += computed
            return [Found(batch.prompts, result)]
        except BrokenDeviceError:
            raise
        except Exception as error:
            halves = batch.halves()
            if not halves:
                return [failed(work.unit, batch.prompts[0].sample, batch.prompts[0].k, error)]
        return [found for half in halves for found in self._compute_batch(work, self._batch(*half))]

    def _ask(self, batch: Batch) -> tuple[Scores | Generations, int]:
        """The engine's answer, and the tokens that were computed for it."""
        if batch.prepared is not None:
            scores = self.scorer.compute(batch.prepared)
            return scores, scores.tokens_computed
        contexts = [p.ids for p in batch.prompts]
        found = self.generator.generate(contexts, self._most_new_tokens(batch.prompts), self.stops)
        return found, found.prompt_tokens_computed + found.tokens_decoded

    def _judge(self, work: Work) -> None:
        """Turn what was found into records."""
        labels = self.spec.templates[work.unit.template].labels
        for found in work.found:
            if isinstance(found, Record):
                work.records.append(found)
                work.n_prompts += 1
                continue
            work.n_prompts += len(found.prompts)
            work.prompt_tokens += sum(len(p.ids) for p in found.prompts)
            if isinstance(found.result, Scores):
                work.records += self.judge.by_labels(work.unit, labels, found.prompts, found.result)
            else:
                work.records += self.judge.by_answers(work.unit, labels, found.prompts, found.result)
        work.found = []

    def _most_new_tokens(self, prompts: list[Prompt]) -> int:
        if self.task.generates:
            return self.spec.config.generation.max_new_tokens
        return max(len(ids) for prompt in prompts for ids in prompt.label_ids)

    def _check_length(self, prompt: Prompt) -> None:
        limit = self.spec.context_length
        longest = len(prompt.ids) + self._most_new_tokens([prompt]) - 1
        if limit is not None and longest > limit:
            raise ContextError(f"prompt and answer have {longest} tokens, the model's context {limit}")


def _load_tokenizer(spec: WorkerSpec) -> Any:
    model = spec.config.model
    try:
        return AutoTokenizer.from_pretrained(
            spec.model, revision=model.revision or "main", trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"tokenizer of '{spec.model}' does not load on this replica: {error}") from None
