"""Does work units: renders, scores, commits. The same object serves a Ray actor and inline mode."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from transformers import AutoTokenizer

from harness.answers import clean, cut_at_stop
from harness.distributed.messages import Care, LectureTable, UnitReport, WorkerSpec, note_name
from harness.distributed.policy import check_usable
from harness.engine.factory import load_engine
from harness.engine.generator import Generator
from harness.engine.loading import ModelSpec
from harness.errors import ContextError, ModelError
from harness.grid import WorkUnit
from harness.prompts.demonstrations import Draw
from harness.prompts.endings import turn_ends
from harness.prompts.rendering import Prompt, Renderer
from harness.prompts.tokenizing import PromptTokenizer
from harness.results.schema import Record, UnitStatistics, to_table
from harness.results.store import RunStore
from harness.sharing import origins
from harness.task import NO_CLASS, LabelScores, Sample, find_task

log = logging.getLogger(__name__)


@dataclass
class _Outcome:
    """Records of a run of samples under construction."""

    records: list[Record] = field(default_factory=list)
    n_prompts: int = 0
    prompt_tokens: int = 0
    tokens_computed: int = 0
    scoring_seconds: float = 0.0


class Worker:
    """One loaded model that does work units.

    Args:
        spec: the run's settings.
        draw: policy and demonstration pool.
    """

    def __init__(self, spec: WorkerSpec, draw: Draw) -> None:
        self.spec = spec
        self.draw = draw
        self.task = find_task(spec.config.task.name)
        self.store = RunStore(spec.config.run_dir)
        self.tokenizer = PromptTokenizer(_load_tokenizer(spec))
        model, engine = spec.config.model, spec.config.engine
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
        self._has_scored = False
        self._renderers: dict[str, Renderer] = {}
        self._argmax_texts: dict[int, str] = {}

    def run_unit(
        self, unit: WorkUnit, samples: Sequence[Sample], lecture: LectureTable | None, care: Care | None = None
    ) -> UnitReport:
        """Score a unit's prompts and commit its records; a unit that is committed is left as it is."""
        if self.store.exists("parts", f"{unit.id}.parquet"):
            return UnitReport(unit.id, UnitStatistics(**self.store.read_statistics(unit.id)))
        started = time.monotonic()
        renderer = self._renderer(unit.template, lecture)
        outcome = _Outcome()
        if care is None:
            self._score(unit, renderer, samples, unit.ks, outcome)
        else:
            self._score_with_care(unit, renderer, samples, care, outcome)
        records = _zero_shot_copies(unit, outcome.records)
        failures = [r for r in records if r.error is not None]
        if not self._has_scored:
            check_usable(self.spec.model, [(r.error_type, r.error) for r in failures], len(records))
            self._has_scored = len(failures) < len(records)
        statistics = UnitStatistics(
            len(records),
            len(failures),
            outcome.n_prompts,
            outcome.prompt_tokens,
            outcome.tokens_computed,
            time.monotonic() - started,
            outcome.scoring_seconds,
            f"{platform.node()}/{os.getpid()}",
        )
        self.store.write_part(unit.id, to_table(records), asdict(statistics))
        return UnitReport(
            unit.id,
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

    def _score_with_care(
        self, unit: WorkUnit, renderer: Renderer, samples: Sequence[Sample], care: Care, outcome: _Outcome
    ) -> None:
        """Sample by sample, each noted before it is tried: the note survives this process."""
        for sample in samples:
            if sample.id in care.quarantined:
                for k in unit.ks:
                    _add_failure(
                        outcome, unit, sample, k, "ReplicaDied", "this sample kills the process of its replica"
                    )
                continue
            self.store.write_json(note_name(unit.id), {"sample": sample.id})
            self._score(unit, renderer, [sample], unit.ks, outcome)
        self.store.remove(note_name(unit.id))

    def _score(
        self,
        unit: WorkUnit,
        renderer: Renderer,
        samples: Sequence[Sample],
        ks: Sequence[int],
        outcome: _Outcome,
    ) -> None:
        """Score samples x ks; when that raises, halve until the culprit is alone, and record it."""
        try:
            self._score_together(unit, renderer, samples, ks, outcome)
        except Exception as error:
            if len(samples) > 1:
                middle = len(samples) // 2
                self._score(unit, renderer, samples[:middle], ks, outcome)
                self._score(unit, renderer, samples[middle:], ks, outcome)
            elif len(ks) > 1:
                middle = len(ks) // 2
                self._score(unit, renderer, samples, ks[:middle], outcome)
                self._score(unit, renderer, samples, ks[middle:], outcome)
            else:
                kind, text = type(error).__name__, " ".join(str(error).split())[:500]
                log.warning("sample %s of %s K=%d failed: %s: %s", samples[0].id, unit.template, ks[0], kind, text)
                _add_failure(outcome, unit, samples[0], ks[0], kind, text)

    def _score_together(
        self,
        unit: WorkUnit,
        renderer: Renderer,
        samples: Sequence[Sample],
        ks: Sequence[int],
        outcome: _Outcome,
    ) -> None:
        prompts = renderer.prompts(samples, unit.seed, ks)
        for prompt in prompts:
            self._check_length(prompt)
        started = time.monotonic()
        work = self._generate if self.spec.method == "generate" else self._compare_labels
        records, computed = work(unit, renderer, prompts)
        outcome.records += records
        outcome.n_prompts += len(prompts)
        outcome.prompt_tokens += sum(len(p.ids) for p in prompts)
        outcome.tokens_computed += computed
        outcome.scoring_seconds += time.monotonic() - started

    def _compare_labels(self, unit: WorkUnit, renderer: Renderer, prompts: list[Prompt]) -> tuple[list[Record], int]:
        """Records by the labels' log-probabilities, and the tokens that were computed."""
        scores = self.scorer.score([p.ids for p in prompts], [p.label_ids for p in prompts], origins(prompts))
        logprobs = scores.logprobs.tolist()
        argmax, off_label = scores.argmax.tolist(), scores.off_label_mass.tolist()
        records = []
        for i, prompt in enumerate(prompts):
            counts = [len(ids) for ids in prompt.label_ids]
            judged = LabelScores(tuple(logprobs[i]), tuple(counts), argmax[i], off_label[i])
            text = self._argmax_text(argmax[i])
            records.append(
                Record(
                    unit.model, unit.task, unit.template, prompt.k, unit.seed, prompt.sample.id,
                    prompt.sample.gold, self.task.score(judged), logprobs[i], counts, argmax[i], text,
                    _greedy(text, renderer.template.labels), off_label[i], len(prompt.ids),
                )
            )  # fmt: skip
        return records, scores.tokens_computed

    def _generate(self, unit: WorkUnit, renderer: Renderer, prompts: list[Prompt]) -> tuple[list[Record], int]:
        """Records by generated answers, and the tokens that were computed."""
        settings, decode = self.spec.config.generation, self.tokenizer.decode

        def is_complete(generated: list[int]) -> bool:
            text = decode(generated)
            return any(mark in text for mark in settings.stop)

        found = self.generator.generate([p.ids for p in prompts], self._most_new_tokens(prompts), is_complete)
        records = []
        for prompt, tokens, reason in zip(prompts, found.tokens, found.reasons, strict=True):
            raw = cut_at_stop(decode(tokens), settings.stop)
            answer, sample = clean(raw, settings.clean), prompt.sample
            prediction = values = None
            if self.task.generates:
                values = [float(metric(answer, sample)) for metric in self.task.answer_metrics.values()]
            else:
                prediction = self._written_label(tokens, prompt, renderer.template.labels)
            records.append(
                Record(
                    unit.model, unit.task, unit.template, prompt.k, unit.seed, sample.id, sample.gold, prediction,
                    greedy_prediction=prediction, n_prompt_tokens=len(prompt.ids), raw_answer=raw, answer=answer,
                    n_generated_tokens=len(tokens), finish_reason=reason, answer_values=values,
                )
            )  # fmt: skip
        return records, found.prompt_tokens_computed + found.tokens_decoded

    def _most_new_tokens(self, prompts: list[Prompt]) -> int:
        if self.task.generates:
            return self.spec.config.generation.max_new_tokens
        return max(len(ids) for prompt in prompts for ids in prompt.label_ids)

    def _written_label(self, tokens: list[int], prompt: Prompt, labels: Sequence[str]) -> int:
        """The class whose label the model wrote, as the lecture judges: text without white space around."""
        for index, (label, ids) in enumerate(zip(labels, prompt.label_ids, strict=True)):
            if self.tokenizer.decode(tokens[: len(ids)]).strip() == label.strip():
                return index
        return NO_CLASS

    def _check_length(self, prompt: Prompt) -> None:
        limit = self.spec.context_length
        longest = len(prompt.ids) + self._most_new_tokens([prompt]) - 1
        if limit is not None and longest > limit:
            raise ContextError(f"prompt and answer have {longest} tokens, the model's context {limit}")

    def _argmax_text(self, token: int) -> str:
        if token not in self._argmax_texts:
            self._argmax_texts[token] = self.tokenizer.decode_token(token)
        return self._argmax_texts[token]


def _add_failure(outcome: _Outcome, unit: WorkUnit, sample: Sample, k: int, kind: str, text: str) -> None:
    outcome.n_prompts += 1
    outcome.records.append(
        Record(
            unit.model, unit.task, unit.template, k, unit.seed, sample.id, sample.gold, error_type=kind, error=text
        )
    )  # fmt: skip


def _load_tokenizer(spec: WorkerSpec) -> Any:
    model = spec.config.model
    try:
        return AutoTokenizer.from_pretrained(
            spec.model, revision=model.revision or "main", trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"tokenizer of '{spec.model}' does not load on this replica: {error}") from None


def _greedy(argmax_text: str, labels: Sequence[str]) -> int | None:
    """The class whose label is the greedily generated token, as the lecture judges."""
    stripped = argmax_text.strip()
    matches = [index for index, label in enumerate(labels) if label.strip() == stripped]
    return matches[0] if matches else None


def _zero_shot_copies(unit: WorkUnit, records: list[Record]) -> list[Record]:
    """Write each K=0 record under every seed: without demonstrations the seed changes nothing."""
    result: list[Record] = []
    for record in records:
        if record.k == 0:
            result.extend(replace(record, seed=seed) for seed in unit.zero_shot_seeds)
        else:
            result.append(record)
    return result
