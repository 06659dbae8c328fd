"""Runs a grid: prepares, starts replicas, dispatches what is not committed, aggregates.

The order of things: find every mistake of the user, take the run directory, find what is
committed, compute the rest, read everything back from the parts.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from harness.analysis.summary import CELLS, summarise
from harness.config.schema import RunConfig
from harness.core.errors import BrokenDeviceError, Interrupted, RunDirError, StorageError, UserError
from harness.core.escaping import one_line
from harness.engine.protocol import EngineFacts
from harness.planning import examples as prompt_examples
from harness.planning.lengths import measure
from harness.planning.preparation import Prepared, prepare
from harness.planning.units import Cell, Plan, WorkUnit, choose_shard_size, grid_identity, make_plan
from harness.reporting.console import SafeFormatter
from harness.reporting.progress import RunProgress
from harness.reporting.tracking.run import open_run_tracker, tell_cells, tell_results
from harness.reporting.tracking.tracker import Tracker
from harness.results import manifest as manifests
from harness.results.lock import RunLock
from harness.results.quarantine import PASSING, Quarantine, Trial
from harness.results.samples import write_samples
from harness.results.store import RunStore
from harness.running.backend import Backend, check_reachable, open_backend
from harness.running.dispatch import dispatch
from harness.running.messages import Care, Note, UnitReport, WorkerSpec, note_name, read_note
from harness.running.precautions import Precautions
from harness.running.stopping import StopFlag, stoppable

log = logging.getLogger(__name__)
unit_log = logging.getLogger("harness.units")
"""One JSON line per finished unit, for `run.log` alone."""
unit_log.propagate = False


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    run_dir: str
    cells: pd.DataFrame
    """One row per cell, as `harness show` prints."""
    failed_share: float
    """Records that failed, as a share of all."""


def run(
    config: RunConfig, fresh: bool = False, console: Console | None = None, retry_failed: bool = False
) -> RunResult:
    """Run or resume a grid.

    Args:
        config: from `harness.config.loading.load_config`.
        fresh: move an existing run directory aside and start anew.
        console: where progress is drawn; standard error by default.
        retry_failed: compute every failed record again; else those that may have failed for a passing reason.

    Raises:
        UserError: whatever the user can mend, before a model is loaded where possible.
        harness.core.errors.Interrupted: on SIGINT or SIGTERM; committed work stays.
        ReplicaError: replicas failed more often than the retry policy allows.
    """
    console = console or Console(stderr=True)
    with stoppable() as stop:
        check_reachable(config)
        prepared = prepare(config)
        for note in prepared.notes:
            log.info("%s", note)
        store = RunStore(config.run_dir)
        if fresh:
            _move_aside(store)
        store.create()
        with RunLock(store), _log_file(store):
            return _run_locked(prepared, store, console, stop, retry_failed)


def _run_locked(prepared: Prepared, store: RunStore, console: Console, stop: StopFlag, retry_failed: bool) -> RunResult:
    config = prepared.config
    manifest: dict[str, Any] | None = None
    if store.exists(manifests.NAME):
        manifest = manifests.read_manifest(
            store, "config", "identity", "class_names", "n_samples", "shard_size", "status", "sessions", "engines"
        )
        prepared = prepared.as_recorded(manifest["identity"])
    identity = json.loads(json.dumps(grid_identity(prepared)))
    if manifest is not None:
        manifests.check_identity(store, manifest["identity"], identity)
        _check_task(store, manifest, prepared)
    elif store.part_ids():
        raise RunDirError(f"'{store.run_dir}' holds parts but no {manifests.NAME}; set another name=... or use --fresh")
    # Shards do not change what fits, so any size will do for the check.
    budgets = measure(prepared, shard_size=max(1, len(prepared.data.samples)))
    with ExitStack() as stack:
        backend: Backend | None = None
        if manifest is None:
            backend = stack.enter_context(open_backend(config, [setup.info.resources for setup in prepared.models]))
            shard_size = choose_shard_size(config, len(prepared.data.samples), backend.n_replicas, prepared.method)
            facts = {
                "shard_size": shard_size,
                "method": prepared.method,
                "class_names": list(prepared.task.class_names),
                "answer_metrics": list(prepared.task.answer_metrics),
                "metrics": list(prepared.task.metrics),
                "n_samples": len(prepared.data.samples),
                "n_pool": {s.info.name: len(s.draw.pool.samples) for s in prepared.models},
                "notes": list(prepared.notes),
                "weights": {s.info.name: s.info.loaded for s in prepared.models},
                "engines": {},
            }
            manifest = manifests.new_manifest(config.as_dict(), identity, facts)
        plan = make_plan(prepared, int(manifest["shard_size"]))
        manifest |= {
            "n_units": len(plan.units),
            "n_records": plan.n_records,
            "calibration_units": sorted(plan.calibration_units),
        }
        session = manifests.new_session()
        manifest["sessions"].append(session)
        manifest["status"] = "running"
        write_samples(store, prepared.data.samples)
        store.write_json(prompt_examples.NAME, prompt_examples.prompt_examples(prepared))
        store.write_json(manifests.NAME, manifest)
        quarantine = Quarantine(store)
        if retry_failed:
            quarantine.forget_all()
        elif manifest["sessions"][:-1] and manifest["sessions"][-2]["ended"]:
            quarantine.forget_passing()
        if manifest["sessions"][:-1] and not manifest["sessions"][-2]["ended"]:
            _take_notes(store, plan, quarantine, manifest["sessions"][-2])
        done, again = _committed(store, plan, retry_failed)
        waiting = [unit for unit in plan.units if unit.id not in done]
        log.info(
            "%s: %d cells, %d samples, %d units, %d committed before",
            store.run_dir, len(plan.cells), len(prepared.data.samples), len(plan.units), len(done) + len(again),
        )  # fmt: skip
        if again:
            n_again = sum(len(samples) for samples in again.values())
            log.info("%d failed samples of %d committed units are tried again", n_again, len(again))
        tracker = stack.enter_context(open_run_tracker(config, manifest, store, plan, done))
        try:
            if waiting:
                backend = backend or stack.enter_context(
                    open_backend(config, [setup.info.resources for setup in prepared.models])
                )
                longest = {b.model: max(x.longest_prompt for x in budgets if x.model == b.model) for b in budgets}
                _compute(prepared, plan, waiting, again, quarantine, backend, manifest, longest, console, stop, tracker)
                _check_complete(store, plan)
            cells = summarise(store.run_dir, metrics=prepared.task.metrics)
            _check_records(store, plan, int(cells["n_attempted"].sum()))
            store.write_table(CELLS, pa.Table.from_pandas(cells, preserve_index=False))
            manifest["status"] = "complete"
        except Interrupted:
            manifest["status"] = "interrupted"
            raise
        except BrokenDeviceError:
            manifest["status"] = "failed"
            _take_notes(store, plan, quarantine, session)
            raise
        except BaseException:
            manifest["status"] = "failed"
            raise
        finally:
            session["ended"] = manifests.now()
            store.write_json(manifests.NAME, manifest)
        tell_results(tracker, store, cells)
    return RunResult(store.run_dir, cells, float(cells["n_failed"].sum() / cells["n_attempted"].sum()))


def _compute(
    prepared: Prepared,
    plan: Plan,
    waiting: list[WorkUnit],
    again: dict[str, frozenset[str]],
    quarantine: Quarantine,
    backend: Backend,
    manifest: dict[str, Any],
    longest: dict[str, int],
    console: Console,
    stop: StopFlag,
    tracker: Tracker,
) -> None:
    """Dispatch the waiting units, model by model."""
    config = prepared.config
    n_records = sum(
        unit.n_records(len(again[unit.id] if unit.id in again else plan.shards[unit.shard].samples)) for unit in waiting
    )
    left: dict[tuple[Cell, ...], set[str]] = {}
    for unit in waiting:
        left.setdefault(unit.cells(), set()).add(unit.id)
    with RunProgress(console, len(plan.units), len(plan.units) - len(waiting), n_records) as progress:
        store = RunStore(config.run_dir)
        samples = [[sample.id for sample in shard.samples] for shard in plan.shards]

        def on_done(unit: WorkUnit, report: UnitReport) -> None:
            unit_log.info(json.dumps({"unit": unit.id, **_place(unit), **asdict(report.statistics)}))
            for error in report.errors:
                log.warning("failed: %s", error)
            progress.unit_done(report.statistics)
            tracker.progress(progress.done, progress.n_units, *progress.speed())
            left[unit.cells()].discard(unit.id)
            if not left[unit.cells()]:
                tell_cells(tracker, store, plan, unit.cells(), prepared.task.metrics)

        for setup in prepared.models:
            units = [unit for unit in waiting if unit.model == setup.info.name]
            if not units:
                continue
            spec = WorkerSpec(
                config,
                setup.info.fixed,
                prepared.method,
                prepared.templates,
                setup.info.context_length,
                longest[setup.info.name],
                setup.info.resources,
                chat_time=setup.tokenizer.chat_time,
            )
            tables = {seed: prepared.lecture_table(setup, seed) for seed in config.grid.seeds}
            lecture = {seed: table for seed, table in tables.items() if table is not None}
            log.info("loading %s: %s", setup.info.name, setup.info.loaded_words)
            with backend.pool(spec, setup.draw, plan.shards, lecture, len(units), stop) as (pool, facts):
                _check_dtype(config.run_dir, manifest["engines"].get(setup.info.name), facts)
                manifest["engines"][setup.info.name] = facts.as_dict()
                log.info("%s: %s", setup.info.name, facts)
                for notice in facts.notices:
                    log.warning("%s: %s", setup.info.name, notice)
                precautions = Precautions(samples, quarantine, partial(_note_of, store), again)
                hang_after_s = config.run.hang_after_s if backend.replaces else 0.0
                with progress.working():
                    dispatch(units, pool, on_done, stop.is_set, precautions, hang_after_s=hang_after_s)


def _note_of(store: RunStore, unit: WorkUnit) -> Note | None:
    return read_note(store, unit.id)


def _place(unit: WorkUnit) -> dict[str, Any]:
    return {"model": unit.model, "template": unit.template, "seed": unit.seed, "shard": unit.shard}


def _check_task(store: RunStore, manifest: dict[str, Any], prepared: Prepared) -> None:
    """Refuse a manifest of the right identity whose words on the task are not the task's."""
    task = prepared.task
    said: dict[str, Any] = {"class_names": list(task.class_names), "answer_metrics": list(task.answer_metrics)}
    said |= {"method": prepared.method, "n_samples": len(prepared.data.samples)}
    for name, value in said.items():
        if manifest.get(name, value) != value:
            raise RunDirError(
                f"'{store.run_dir}/{manifests.NAME}' is damaged: {name} is {one_line(repr(manifest[name]), 80)}, "
                f"expected {one_line(repr(value), 80)}; {store.anew()}"
            )


def _check_dtype(run_dir: str, before: dict[str, Any] | None, facts: EngineFacts) -> None:
    """Refuse to mix number formats in one run, as `dtype: auto` would on another machine."""
    if before is not None and before.get("dtype", facts.dtype) != facts.dtype:
        raise RunDirError(
            f"the run in '{run_dir}' began in {before['dtype']}, but this machine would go on in {facts.dtype}; "
            f"set model.dtype={before['dtype']} under another name=..., or resume on a machine of the same kind"
        )


def _check_complete(store: RunStore, plan: Plan) -> None:
    missing = {unit.id for unit in plan.units} - store.part_ids()
    if missing:
        raise RunDirError(
            f"{len(missing)} of {len(plan.units)} units were computed, but their parts are not in '{store.run_dir}'; "
            "set out=... to a folder or storage that every node sees"
        )


def _check_records(store: RunStore, plan: Plan, found: int) -> None:
    """A run is complete when every cell has a record of every sample, whatever the files are called."""
    if found < plan.n_records:
        raise RunDirError(
            f"'{store.run_dir}' holds {found:,} of {plan.n_records:,} records: parts were lost or changed while it "
            "ran; run the same command again, it computes what is missing"
        )
    strangers = sorted(store.part_ids() - {unit.id for unit in plan.units})
    if found > plan.n_records:
        raise RunDirError(
            f"'{store.run_dir}' holds {found:,} records, the grid has {plan.n_records:,}: {len(strangers)} files in "
            f"parts/ are of no unit of this run ({strangers[0] if strangers else 'none'}.parquet); move them away"
        )


def _committed(store: RunStore, plan: Plan, retry_failed: bool) -> tuple[set[str], dict[str, frozenset[str]]]:
    """Units whose parts are whole, and of those with failures to be tried again the samples; no unit is in both.

    Damaged parts are removed, to be computed again.

    Args:
        store: of the run directory.
        plan: of the run.
        retry_failed: whether every failure is tried again, or those that may have passed.
    """
    store.remove_leftovers()
    rows = {unit.id: unit.n_records(len(plan.shards[unit.shard].samples)) for unit in plan.units}
    for name in store.files().keys() & {note_name(unit_id) for unit_id in rows}:
        store.remove(name)
    done, again = set(), {}
    columns = ["sample_id", "error_type"]
    for unit_id, part in store.read_parts(store.part_ids() & rows.keys(), columns, max(rows.values())):
        fault = ""
        if isinstance(part, ValueError):
            fault = str(part)
        elif part.num_rows != rows[unit_id]:
            fault = f"part {unit_id} has {part.num_rows:,} rows, expected {rows[unit_id]:,}"
        if fault:
            log.warning("%s; computing it again", fault)
            store.remove_part(unit_id)
        elif failed := _failed_samples(part, retry_failed):
            again[unit_id] = failed
        else:
            done.add(unit_id)
    return done, again


def _take_notes(store: RunStore, plan: Plan, quarantine: Quarantine, session: Mapping[str, Any]) -> None:
    """Take down what a driver tried that was its own replica and came to its end over it; once."""
    process = f"{session.get('host')}/{session.get('pid')}"
    names = store.files()
    noted = [(unit, read_note(store, unit.id)) for unit in plan.units if note_name(unit.id) in names]
    precautions = Precautions([[sample.id for sample in shard.samples] for shard in plan.shards], quarantine)
    precautions.expect(plan.units)
    notes = [(unit, note) for unit, note in noted if note is not None and note.process == process]
    # Where units overlap, the first was under way; if one behind it was the cause, the next time tells.
    for unit, note in notes[:1]:
        if note.sample is None:
            log.warning("the last session ended in unit %s: it is taken sample by sample", unit.id)
            precautions.died(unit)
        else:
            log.warning("the last session ended at sample %s by itself", note.sample)
            trial = Trial(unit.id, process, note.ending, "the process of an inline run came to its end")
            precautions.failed_alone(unit, precautions.care(unit) or Care(), note.sample, trial)
    for unit, _ in noted:
        store.remove(note_name(unit.id))


def _failed_samples(part: pa.Table, is_any: bool) -> frozenset[str]:
    """Samples with a record that failed, for whatever reason or for one that may have passed."""
    errors = part["error_type"]
    chosen = pc.is_valid(errors) if is_any else pc.is_in(errors, pa.array(sorted(PASSING)))
    return frozenset(part.filter(chosen)["sample_id"].to_pylist())


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


class _RunLog(logging.FileHandler):
    """A log that a full disk may cut off, but that stops no run."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Lines that cannot be written are lost; committing records tells of the disk."""

    def close(self) -> None:
        """Close, whatever the disk says."""
        with suppress(OSError):
            super().close()


@contextmanager
def _log_file(store: RunStore) -> Iterator[None]:
    """Write the harness's log to `run.log`; on object stores, when the run ends."""
    logger = logging.getLogger("harness")
    buffer = io.StringIO()
    handler: logging.Handler
    if store.is_local:
        try:
            handler = _RunLog(store.path("run.log"), encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise RunDirError(
                f"'{store.run_dir}/run.log' cannot be written: {error.strerror}; expected a file that you may write: "
                "remove it, or set another name=..."
            ) from None
    else:
        handler = logging.StreamHandler(buffer)
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    unit_log.addHandler(handler)
    try:
        yield
    except (UserError, Interrupted):
        raise
    except BaseException as error:
        text = f"stopped: {type(error).__name__}: {error}"
        handler.handle(logging.LogRecord(log.name, logging.ERROR, __file__, 0, text, None, None))
        raise
    finally:
        logger.removeHandler(handler)
        unit_log.removeHandler(handler)
        handler.close()
        if not store.is_local:
            try:
                before = store.read_bytes("run.log") if store.exists("run.log") else b""
                store.write_bytes("run.log", before + buffer.getvalue().encode(errors="backslashreplace"))
            except (RunDirError, StorageError) as error:
                log.warning("the log of this session is lost, the records are not: %s", error)
