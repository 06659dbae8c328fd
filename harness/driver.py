"""Runs a grid: prepares, starts replicas, dispatches what is not committed, aggregates.

The order of things: find every mistake of the user, take the run directory, find what is
committed, compute the rest, read everything back from the parts.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from rich.console import Console

from harness import prompt_examples
from harness.budget import measure
from harness.config import RunConfig
from harness.distributed.backend import Backend, check_reachable, open_backend
from harness.distributed.dispatch import dispatch
from harness.distributed.messages import LectureTable, UnitReport, WorkerSpec, note_name
from harness.engine.facts import EngineFacts
from harness.errors import RunDirError, StorageError, UserError
from harness.escaping import one_line
from harness.grid import Cell, Plan, WorkUnit, choose_shard_size, grid_identity, make_plan
from harness.preparation import Prepared, prepare
from harness.reporting.console import SafeFormatter
from harness.reporting.progress import RunProgress
from harness.results import manifest as manifests
from harness.results.lock import RunLock
from harness.results.samples import write_samples
from harness.results.store import RunStore
from harness.stopping import Interrupted, StopFlag, stoppable
from harness.summary import CELLS, summarise
from harness.telling import open_run_tracker, tell_cells, tell_results
from harness.tracking import Tracker

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


def run(config: RunConfig, fresh: bool = False, console: Console | None = None) -> RunResult:
    """Run or resume a grid.

    Args:
        config: from `harness.config.load_config`.
        fresh: move an existing run directory aside and start anew.
        console: where progress is drawn; standard error by default.

    Raises:
        UserError: whatever the user can mend, before a model is loaded where possible.
        harness.stopping.Interrupted: on SIGINT or SIGTERM; committed work stays.
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
            return _run_locked(prepared, store, console, stop)


def _run_locked(prepared: Prepared, store: RunStore, console: Console, stop: StopFlag) -> RunResult:
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
            backend = stack.enter_context(open_backend(config))
            shard_size = choose_shard_size(config, len(prepared.data.samples), backend.n_replicas, prepared.method)
            facts = {
                "shard_size": shard_size,
                "method": prepared.method,
                "class_names": list(prepared.task.class_names),
                "answer_metrics": list(prepared.task.answer_metrics),
                "metrics": list(prepared.task.metrics),
                "n_samples": len(prepared.data.samples),
                "n_pool": {s.info.path: len(s.draw.pool.samples) for s in prepared.models},
                "notes": list(prepared.notes),
                "weights": {s.info.path: s.info.loaded for s in prepared.models},
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
        done = _committed(store, plan)
        waiting = [unit for unit in plan.units if unit.id not in done]
        log.info(
            "%s: %d cells, %d samples, %d units, %d committed before",
            store.run_dir, len(plan.cells), len(prepared.data.samples), len(plan.units), len(done),
        )  # fmt: skip
        tracker = stack.enter_context(open_run_tracker(config, manifest, store, plan, done))
        try:
            if waiting:
                backend = backend or stack.enter_context(open_backend(config))
                longest = {b.model: max(x.longest_prompt for x in budgets if x.model == b.model) for b in budgets}
                _compute(prepared, plan, waiting, backend, manifest, longest, console, stop, tracker)
                _check_complete(store, plan)
            cells = summarise(store.run_dir, metrics=prepared.task.metrics)
            _check_records(store, plan, int(cells["n_attempted"].sum()))
            store.write_table(CELLS, pa.Table.from_pandas(cells, preserve_index=False))
            manifest["status"] = "complete"
        except Interrupted:
            manifest["status"] = "interrupted"
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
    backend: Backend,
    manifest: dict[str, Any],
    longest: dict[str, int],
    console: Console,
    stop: StopFlag,
    tracker: Tracker,
) -> None:
    """Dispatch the waiting units, model by model."""
    config = prepared.config
    n_records = sum(unit.n_records(len(plan.shards[unit.shard].samples)) for unit in waiting)
    left: dict[tuple[Cell, ...], set[str]] = {}
    for unit in waiting:
        left.setdefault(unit.cells(), set()).add(unit.id)
    with RunProgress(console, len(plan.units), len(plan.units) - len(waiting), n_records) as progress:
        store = RunStore(config.run_dir)

        def suspect_of(unit: WorkUnit) -> str | None:
            name = note_name(unit.id)
            return str(store.read_json(name)["sample"]) if store.exists(name) else None

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
            units = [unit for unit in waiting if unit.model == setup.info.path]
            if not units:
                continue
            spec = WorkerSpec(
                _at_commit(config, setup.info.commit),
                setup.info.path,
                prepared.method,
                prepared.templates,
                setup.info.context_length,
                longest[setup.info.path],
                backend.threads,
                setup.tokenizer.chat_time,
            )
            lecture: dict[int, LectureTable] = {}
            if config.demos.policy == "lecture":
                lecture = {seed: prepared.lecture_table(setup, seed) for seed in config.grid.seeds}
            log.info("loading %s: %s", setup.info.path, setup.info.loaded_words)
            with backend.pool(spec, setup.draw, plan.shards, lecture, len(units), stop) as (pool, facts):
                _check_dtype(config.run_dir, manifest["engines"].get(setup.info.path), facts)
                manifest["engines"][setup.info.path] = facts.as_dict()
                log.info("%s: %s", setup.info.path, facts)
                if facts.sharing_notice:
                    log.warning("%s is scored without shared prefixes: %s", setup.info.path, facts.sharing_notice)
                if facts.attention_notice:
                    log.warning("%s: %s", setup.info.path, facts.attention_notice)
                with progress.working():
                    dispatch(units, pool, on_done, stop.is_set, suspect_of)


def _at_commit(config: RunConfig, commit: str | None) -> RunConfig:
    """Replicas load the commit that was looked at here, whatever the hub holds by then."""
    return config if commit is None else replace(config, model=replace(config.model, revision=commit))


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


def _committed(store: RunStore, plan: Plan) -> set[str]:
    """Units whose parts are whole; damaged parts are removed, to be computed again."""
    store.remove_leftovers()
    rows = {unit.id: unit.n_records(len(plan.shards[unit.shard].samples)) for unit in plan.units}
    for name in store.files().keys() & {note_name(unit_id) for unit_id in rows}:
        store.remove(name)
    done = set()
    for unit_id, part in store.read_parts(store.part_ids() & rows.keys(), ["sample_id"], max(rows.values())):
        fault = ""
        if isinstance(part, ValueError):
            fault = str(part)
        elif part.num_rows != rows[unit_id]:
            fault = f"part {unit_id} has {part.num_rows:,} rows, expected {rows[unit_id]:,}"
        if fault:
            log.warning("%s; computing it again", fault)
            store.remove_part(unit_id)
        else:
            done.add(unit_id)
    return done


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
