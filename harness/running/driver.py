"""Runs a grid: prepares, starts replicas, dispatches what is not committed, aggregates.

The order of things: find every mistake of the user, take the run directory, find what is
committed, compute the rest, read everything back from the parts.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from rich.console import Console, RichCast

from harness.analysis.summary import CELLS, summarise
from harness.config.schema import RunConfig
from harness.core.errors import BrokenDeviceError, BudgetError, Interrupted, RunDirError
from harness.core.escaping import one_line
from harness.engine.protocol import EngineFacts
from harness.planning import examples as prompt_examples
from harness.planning.format_1 import units_of_format_1
from harness.planning.lengths import measure
from harness.planning.preparation import Prepared, prepare
from harness.planning.units import Plan, WorkUnit, choose_shard_size
from harness.reporting.console import error_console
from harness.reporting.progress import RunProgress
from harness.reporting.tracking.run import open_run_tracker, tell_cells, tell_results
from harness.reporting.tracking.tracker import Tracker
from harness.results import manifest as manifests
from harness.results.lock import RunLock
from harness.results.quarantine import Quarantine
from harness.results.records import most_rows
from harness.results.samples import write_samples
from harness.results.store import RunStore
from harness.running.asking import check_scores
from harness.running.backend import Backend, check_reachable, open_backend
from harness.running.committed import read_committed
from harness.running.course import WHOLE_GRID, Course
from harness.running.dispatch import MANY, Timing, dispatch
from harness.running.growing import begin, grow, note_code, take_in
from harness.running.ledger import Ledger
from harness.running.messages import UnitReport
from harness.running.notes import note_of, take_notes
from harness.running.precautions import Precautions
from harness.running.run_log import log_file, unit_log
from harness.running.schedule import InOrder, Schedule
from harness.running.specs import Grids, lecture_of, opening, resources_of
from harness.running.stopping import StopFlag, stoppable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    run_dir: str
    cells: pd.DataFrame
    """One row per cell, as `harness show` prints."""
    failed_share: float
    """Records that failed, as a share of all."""


def run(
    config: RunConfig,
    fresh: bool = False,
    console: Console | None = None,
    retry_failed: bool = False,
    schedule_of: Callable[[Plan], Schedule] = lambda plan: InOrder(plan.units),
    course: Course = WHOLE_GRID,
) -> RunResult:
    """Run or resume a grid, or let a run grow.

    Args:
        config: from `harness.config.loading.load_config`.
        fresh: move an existing run directory aside and start anew.
        console: where progress is drawn; standard error by default.
        retry_failed: compute every failed record again; else those that may have failed for a passing reason.
        schedule_of: which of the plan's units come when; all in their order by default.
        course: what the verb has its own way in.

    Raises:
        UserError: whatever the user can mend, before a model is loaded where possible.
        harness.core.errors.Interrupted: on SIGINT or SIGTERM; committed work stays.
        ReplicaError: replicas failed more often than the retry policy allows.
    """
    console = console or error_console()
    with stoppable() as stop:
        check_reachable(config)
        prepared = prepare(config)
        course.check(prepared)
        for note in prepared.notes:
            log.info("%s", note)
        store = RunStore(config.run_dir)
        if fresh:
            _move_aside(store)
        store.create()
        with RunLock(store), log_file(store):
            wishes = _Wishes(retry_failed, schedule_of, course)
            result = _run_locked(prepared, store, console, stop, wishes)
            while wishes.looks_again(config) and (doubted := Quarantine(store).doubted):
                log.warning(
                    "samples are tried again that ended their process by themselves, since processes ended without "
                    "them too: %s",
                    one_line(", ".join(sorted(doubted)), 120),
                )
                result = _run_locked(prepared, store, console, stop, replace(wishes, retry_failed=False))
            return result


@dataclass(frozen=True)
class _Wishes:
    """How to go about what is left."""

    retry_failed: bool
    schedule_of: Callable[[Plan], Schedule]
    course: Course

    def looks_again(self, config: RunConfig) -> bool:
        """Whether samples that may be innocent are tried again: they may end their process, which a run in this very
        process would not outlive."""
        return config.cluster.address != "inline" and not self.course.keep_failed


def _run_locked(prepared: Prepared, store: RunStore, console: Console, stop: StopFlag, wishes: _Wishes) -> RunResult:
    config = prepared.config
    manifest: dict[str, Any] | None = None
    if store.exists(manifests.NAME):
        manifest = manifests.read_manifest(
            store, "config", "identity", "class_names", "n_samples", "shard_size", "status", "sessions", "engines"
        )
        growth = grow(store, manifest, prepared)
        _check_task(store, manifest, prepared)
    elif store.exists(manifests.GROUP):
        raise RunDirError(f"'{store.run_dir}' holds the runs of a group, expected one run's; set another name=...")
    elif store.part_ids():
        raise RunDirError(f"'{store.run_dir}' holds parts but no {manifests.NAME}; set another name=... or use --fresh")
    else:
        growth = begin(prepared)
    prepared = growth.prepared
    # Shards do not change what fits, so any size will do for the check.
    budgets = measure(prepared, shard_size=max(1, len(prepared.data.samples)))
    with ExitStack() as stack:
        backend: Backend | None = None
        if manifest is None:
            backend = stack.enter_context(open_backend(config, resources_of(prepared)))
            shard_size = choose_shard_size(config, len(prepared.data.samples), backend.n_replicas, prepared.method)
            facts = {
                "shard_size": shard_size,
                "method": prepared.method,
                "class_names": list(prepared.task.class_names),
                "answer_metrics": list(prepared.task.answer_metrics),
                "metrics": list(prepared.task.metrics),
                **({"choices": True} if prepared.task.choices else {}),
                "engines": {},
            }
            manifest = manifests.new_manifest(config.as_dict(), growth.identity, facts)
        session = manifests.new_session()
        manifest["sessions"].append(session)
        take_in(manifest, growth, session)
        plan = wishes.course.plan_of(prepared, int(manifest["shard_size"]))
        facts_1 = manifest.get("format_1")
        early = units_of_format_1(prepared, plan, growth.samples, facts_1) if facts_1 else {}
        quarantine = Quarantine(store)
        before = manifest["sessions"][-2] if manifest["sessions"][:-1] else None
        if wishes.retry_failed:
            quarantine.forget_all()
        elif before is not None and before["ended"]:
            quarantine.forget_passing()
        doubted = quarantine.look_again() if wishes.looks_again(config) else frozenset()
        committed = read_committed(store, plan, early, most_rows(manifest), wishes.retry_failed, doubted)
        if wishes.course.keep_failed:
            committed.again.clear()
        ledger = Ledger(store, plan, wishes.schedule_of(plan), committed)
        manifest |= ledger.expected
        manifest["status"] = "running"
        write_samples(store, growth.samples)
        store.write_json(prompt_examples.NAME, prompt_examples.prompt_examples(prepared))
        store.write_json(manifests.NAME, manifest)
        take_notes(store, ledger, quarantine, before)
        if growth.added:
            log.info("%s grows: %s", store.run_dir, growth.in_words)
        log.info(
            "%s: %d cells, %d samples, %s units, %d committed before",
            store.run_dir, len(plan.cells), len(growth.samples), manifest["n_units"] or "yet unknown",
            ledger.n_committed,
        )  # fmt: skip
        if ledger.again:
            n_again = sum(len(samples) for samples in ledger.again.values())
            log.info("%d failed samples of %d committed units are tried again", n_again, len(ledger.again))
        tracker = stack.enter_context(open_run_tracker(config, manifest["tracking_id"], store, ledger.n_cells_done))
        try:
            if ledger.feed.next_model() is not None:
                note_code(manifest["sessions"], prepared)
                backend = backend or stack.enter_context(open_backend(config, resources_of(prepared)))
                longest = {b.model: max(x.longest_prompt for x in budgets if x.model == b.model) for b in budgets}
                tokens = {b.model: sum(x.tokens_unique for x in budgets if x.model == b.model) for b in budgets}
                work = _Work(prepared, ledger, quarantine, manifest, Grids(longest, tokens))
                _compute(work, store, backend, _Onlookers(console, tracker, wishes.course.board), stop)
                ledger.check_complete()
            manifest |= ledger.expected
            cells = summarise(store.run_dir, metrics=prepared.task.metrics)
            ledger.check_records(int(cells["n_attempted"].sum()))
            store.write_table(CELLS, pa.Table.from_pandas(cells, preserve_index=False))
            manifest["status"] = "complete"
        except Interrupted:
            manifest["status"] = "interrupted"
            raise
        except BrokenDeviceError:
            manifest["status"] = "failed"
            take_notes(store, ledger, quarantine, session)
            raise
        except BaseException:
            manifest["status"] = "failed"
            raise
        finally:
            session["ended"] = manifests.now()
            store.write_json(manifests.NAME, manifest)
        tell_results(tracker, store, cells, wishes.course.summary)
    return RunResult(store.run_dir, cells, float(cells["n_failed"].sum() / cells["n_attempted"].sum()))


@dataclass(frozen=True)
class _Work:
    """What is left of a run, and what is known for doing it."""

    prepared: Prepared
    ledger: Ledger
    quarantine: Quarantine
    manifest: dict[str, Any]
    grids: Grids


@dataclass(frozen=True)
class _Onlookers:
    """Who is told how far a run is."""

    console: Console
    tracker: Tracker
    board: RichCast | None


def _compute(work: _Work, store: RunStore, backend: Backend, onlookers: _Onlookers, stop: StopFlag) -> None:
    """Dispatch what is left, model by model."""
    prepared, ledger, manifest, tracker = work.prepared, work.ledger, work.manifest, onlookers.tracker
    config, feed = prepared.config, ledger.feed
    samples = [[sample.id for sample in shard.samples] for shard in ledger.work.shards]
    n_done = ledger.n_committed - len(ledger.again)
    left, before = ledger.n_prompts_left(), ledger.n_prompts_before
    with RunProgress(onlookers.console, manifest["n_units"], n_done, left, before, onlookers.board) as progress:

        def on_done(unit: WorkUnit, report: UnitReport) -> None:
            unit_log.info(json.dumps({"unit": unit.id, **_place(unit), **asdict(report.statistics)}))
            for error in report.errors:
                log.warning("failed: %s", error)
            if report.statistics.cost:
                paid = manifest["sessions"][-1].setdefault("cost", {})
                paid[unit.model] = paid.get(unit.model, 0.0) + report.statistics.cost
            cells, parts = ledger.finish(unit)
            if progress.n_units is None and feed.expected is not None:
                manifest.update(ledger.expected)
                store.write_json(manifests.NAME, manifest)
                progress.expect(manifest["n_units"], ledger.n_prompts_left())
            progress.unit_done(unit.id, report.statistics)
            tracker.progress(progress.done, progress.n_units, *progress.speed())
            if cells:
                tell_cells(tracker, store, cells, parts, prepared.task.metrics)

        while (model := feed.next_model()) is not None:
            units = feed.of(model)
            spent = sum(one.get("cost", {}).get(model, 0.0) for one in manifest["sessions"])
            info, draw, spec = opening(prepared, model, work.grids, spent)
            lecture = lecture_of(prepared, model)
            log.info("loading %s: %s", model, info.loaded_words)
            useful = MANY if units.n_left is None else units.n_left
            with backend.pool(spec, draw, ledger.work.shards, lecture, useful, stop) as (pool, facts):
                _check_engine(config.run_dir, manifest["engines"].get(model), facts)
                manifest["engines"][model] = facts.as_dict()
                check_scores(model, manifest["engines"][model], prepared.templates)
                log.info("%s: %s", model, facts)
                for notice in facts.notices:
                    log.warning("%s: %s", model, notice)
                precautions = Precautions(samples, work.quarantine, partial(note_of, store), ledger.again)
                hang_after_s = spec.config.run.hang_after_s if backend.replaces else 0.0
                try:
                    with progress.working(pool.under_way):
                        dispatch(units, pool, on_done, stop.is_set, precautions, Timing(hang_after_s))
                except BudgetError as error:
                    raise BudgetError(f"{error}; {ledger.n_missing:,} records are missing") from None


def _place(unit: WorkUnit) -> dict[str, Any]:
    return {"model": unit.model, "template": unit.template, "seed": unit.seed, "shard": unit.shard}


def _check_task(store: RunStore, manifest: dict[str, Any], prepared: Prepared) -> None:
    """Refuse a manifest of the right identity whose words on the task are not the task's."""
    task = prepared.task
    said: dict[str, Any] = {"class_names": list(task.class_names), "answer_metrics": list(task.answer_metrics)}
    said |= {"method": prepared.method}
    for name, value in said.items():
        if manifest.get(name, value) != value:
            raise RunDirError(
                f"'{store.run_dir}/{manifests.NAME}' is damaged: {name} is {one_line(repr(manifest[name]), 80)}, "
                f"expected {one_line(repr(value), 80)}; {store.anew()}"
            )


def _check_engine(run_dir: str, before: dict[str, Any] | None, facts: EngineFacts) -> None:
    """Refuse to mix number formats in one run, as `dtype: auto` would on another machine, or servers."""
    change = None if before is None else facts.change_since(before)
    if change is not None:
        was, is_now, remedy = change
        raise RunDirError(f"the run in '{run_dir}' began in {was}, but {is_now}; {remedy}")


def _move_aside(store: RunStore) -> None:
    if not store.exists(manifests.NAME) and not store.part_ids():
        return
    if not store.is_local:
        raise RunDirError("--fresh moves local run directories only; set another name=... instead")
    with RunLock(store):
        stamp = manifests.now().replace(":", "").replace("+0000", "Z")
        names = (f"{store.root}.{stamp}{f'.{n}' if n else ''}" for n in itertools.count())
        aside = next(name for name in names if not Path(name).exists())
        try:
            Path(store.root).rename(aside)
        except OSError as error:
            raise RunDirError(
                f"'{store.run_dir}' cannot be moved to '{aside}': {error.strerror}; move it yourself, or set another "
                "name=..."
            ) from None
    log.warning("the old run directory is now %s", aside)
