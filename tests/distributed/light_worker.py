"""A worker without a model: stands in for `harness.running.worker` on the nodes of a `SimulatedCluster`.

Dispatch, actors, storage and driver are the real ones. Records follow from names and ids alone, so that any two
runs of one grid must be equal. A node's environment steers it:

LIGHT_SECONDS   the time that a unit takes
LIGHT_LAST      the time that the grid's last unit takes
LIGHT_JOURNAL   a file that gets a line when a unit is begun and when it is ended
LIGHT_NO_MODEL  set where the model does not load
LIGHT_DEADLY    set where loading kills the process
LIGHT_POISON    id of a sample that kills the process that computes it
LIGHT_HANG      id of a sample that never comes to an end
LIGHT_HUNGRY    gigabytes that loading takes
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from dataclasses import asdict

import ray

from harness.core.errors import ModelError
from harness.engine.local.facts import EngineFacts
from harness.results.schema import Record, UnitStatistics, to_table
from harness.results.store import RunStore
from harness.running.judging import failure
from harness.running.messages import Care, UnitReport, note_name, process_name

LAST_SHARD = 19
"""Of `tests.distributed.simulated.GRID`."""


class Worker:
    """Has what `harness.cluster.actors` asks of a worker."""

    def __init__(self, spec, draw):
        self.spec = spec
        if "LIGHT_NO_MODEL" in os.environ:
            raise ModelError(f"'{spec.model}' has no weights on this node")
        if "LIGHT_DEADLY" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        if gigabytes := float(os.environ.get("LIGHT_HUNGRY", "0")):
            self.held = [b"x" * 2**24 for _ in range(int(gigabytes * 64))]
            time.sleep(5)
        self.store = RunStore(spec.config.run_dir)
        self.facts = EngineFacts("cpu", "float32", 1, False, None, 1)

    def run_unit(self, unit, samples, lecture, care=None):
        work = self.prepare(unit, samples, lecture, care)
        self.compute(work)
        return self.commit(work)

    def prepare(self, unit, samples, lecture, care):
        care = care or Care()
        if care.again is not None:
            samples = [sample for sample in samples if sample.id in care.again]
        is_done = care.again is None and self.store.exists("parts", f"{unit.id}.parquet")
        return unit, samples, care, is_done

    def compute(self, work):
        unit, samples, care, is_done = work
        if is_done:
            return
        note("begin", unit.id)
        out = {verdict.sample for verdict in care.out}
        tried = [sample.id for sample in samples if sample.id not in out]
        if care.alone:
            tried = [*care.first, *(id_ for id_ in tried if id_ not in care.first)]
        for id_ in tried:
            if care.alone:
                self.store.write_json(note_name(unit.id), {"sample": id_, "process": process_name()}, durable=False)
            time.sleep(self.seconds(unit) / len(samples))
            self.meet(id_)
        if care.alone:
            self.store.remove(note_name(unit.id))

    def meet(self, id_):
        if id_ == os.environ.get("LIGHT_POISON"):
            note("death", id_)
            os.kill(os.getpid(), signal.SIGKILL)
        while id_ == os.environ.get("LIGHT_HANG"):
            time.sleep(1)

    def commit(self, work):
        unit, samples, care, is_done = work
        if is_done:
            return UnitReport(unit.id, UnitStatistics(**self.store.read_statistics(unit.id)))
        seconds = self.seconds(unit)
        out = {verdict.sample: (verdict.error_type, verdict.error) for verdict in care.out}
        records = [
            failure(unit, sample, k, *out[sample.id]) if sample.id in out else record(unit, sample, k)
            for sample in samples
            for k in unit.ks
        ]
        n_failed = sum(record.error is not None for record in records)
        n = len(records)
        statistics = UnitStatistics(n, n_failed, n, n, n, seconds, seconds, process_name())
        write = self.store.write_part if care.again is None else self.store.amend_part
        write(unit.id, to_table(records), asdict(statistics))
        note("end", unit.id)
        return UnitReport(unit.id, statistics)

    def seconds(self, unit):
        grid = self.spec.config.grid
        is_last = (unit.template, unit.seed, unit.shard) == (grid.templates[-1], grid.seeds[-1], LAST_SHARD)
        return float(os.environ.get("LIGHT_LAST" if is_last else "LIGHT_SECONDS", "0"))


def note(word, unit_id):
    if journal := os.environ.get("LIGHT_JOURNAL"):
        with open(journal, "a") as file:
            file.write(f"{word} {unit_id} {os.getpid()} {ray.get_runtime_context().get_node_id()}\n")


def record(unit, sample, k):
    named = repr((unit.model, unit.template, unit.seed, k, sample.id, sorted(sample.fields.items())))
    share = hashlib.blake2b(named.encode(), digest_size=1).digest()[0] / 256
    return Record(
        unit.model, unit.task, unit.template, k, unit.seed, sample.id, sample.gold, int(share < 0.5),
        [-share, share - 1], [1, 1], 0, "", None, share, 1,
    )  # fmt: skip
