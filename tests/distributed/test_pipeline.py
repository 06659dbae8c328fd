"""The pipeline with a worker that is told when to go on, and whole runs whose units overlap."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness import load_records, run
from harness.config.loading import load_config
from harness.core.errors import RunDirError, TemplateError
from harness.engine.local.engine import LoadedModel
from harness.planning.preparation import prepare
from harness.prompts.rendering import Renderer
from harness.results.store import RunStore
from harness.running.messages import Handling, UnitReport
from harness.running.pipeline import Pipeline
from tests.distributed.test_dispatch import STATISTICS, units
from tests.distributed.test_generation import question_overrides
from tests.distributed.test_resume import overrides_of, part_times, wait_for_parts
from tests.forked import Forked

WAIT_S = 20
"""For what must happen."""
PAUSE_S = 0.2
"""In which what must not happen would."""


class Steps:
    """A worker that writes down what it does, and waits where it is told to or raises.

    Events are named `prepare u0`, `compute u0`, ... when a step begins, and with `done` behind when it ends.
    """

    def __init__(self, raises: dict[str, Exception] | None = None) -> None:
        self.raises = raises or {}
        self.gates: dict[str, threading.Event] = {}
        self.journal: list[str] = []
        self.threads: dict[str, set[str]] = {}
        self._changed = threading.Condition()

    def _step(self, name: str, unit_id: str) -> None:
        event = f"{name} {unit_id}"
        self._note(event)
        self.threads.setdefault(name, set()).add(threading.current_thread().name)
        if event in self.gates:
            assert self.gates[event].wait(WAIT_S), event
        if event in self.raises:
            raise self.raises[event]
        self._note(f"{event} done")

    def _note(self, event: str) -> None:
        with self._changed:
            self.journal.append(event)
            self._changed.notify_all()

    def await_(self, *events: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: set(events) <= set(self.journal), WAIT_S), (events, self.journal)

    def began(self, name: str) -> list[str]:
        return [event.split()[1] for event in self.journal if event.startswith(name) and not event.endswith("done")]

    def gate(self, *events: str) -> None:
        self.gates |= {event: threading.Event() for event in events}

    def prepare(self, unit, samples, lecture, handling):
        self._step("prepare", unit.id)
        return unit

    def compute(self, unit):
        self._step("compute", unit.id)

    def commit(self, unit):
        self._step("commit", unit.id)
        return UnitReport(unit.id, STATISTICS)


def read():
    return [], None


@pytest.fixture
def begin():
    """A function that starts a pipeline on a fake worker and submits units; all are ended with the test."""
    opened = []

    def start(worker, n, cares=()):
        pipeline = Pipeline(worker)
        opened.append((pipeline, worker))
        return pipeline, [pipeline.submit(u, read, Handling(alone=True) if u.id in cares else None) for u in units(n)]

    yield start
    for pipeline, worker in opened:
        for gate in worker.gates.values():
            gate.set()
        pipeline.close()


def test_a_unit_is_prepared_while_another_is_computed_and_written_while_the_next_is(begin):
    worker = Steps()
    worker.gate("prepare u2", "compute u1", "commit u0")
    _, futures = begin(worker, 3)
    worker.await_("prepare u2", "compute u1", "commit u0")
    assert not any(future.done() for future in futures), "all three are under way at the same moment"
    for gate in worker.gates.values():
        gate.set()
    assert [future.result(WAIT_S).unit for future in futures] == ["u0", "u1", "u2"]
    assert {name: len(threads) for name, threads in worker.threads.items()} == {"prepare": 1, "compute": 1, "commit": 1}


def test_at_most_one_unit_is_ahead_of_the_model_and_one_behind(begin):
    worker = Steps()
    worker.gate("compute u0", "commit u0")
    _, futures = begin(worker, 6)
    worker.await_("compute u0", "prepare u1 done")
    time.sleep(PAUSE_S)
    assert worker.began("prepare") == ["u0", "u1"]
    worker.gates["compute u0"].set()
    worker.await_("commit u0", "compute u1 done", "prepare u2 done")
    time.sleep(PAUSE_S)
    assert worker.began("compute") == ["u0", "u1"], "nothing is computed while two are behind"
    assert worker.began("prepare") == ["u0", "u1", "u2"]
    worker.gates["commit u0"].set()
    assert [future.result(WAIT_S).unit for future in futures] == [f"u{i}" for i in range(6)]


def test_what_a_step_raises_reaches_its_unit_and_no_other_and_units_finish_in_order(begin):
    raises = {"prepare u1": OSError("a"), "compute u2": ValueError("b"), "commit u3": RunDirError("c")}
    worker = Steps(raises)
    worker.gate("compute u0")
    finished = []
    _, futures = begin(worker, 5)
    for i, future in enumerate(futures):
        future.add_done_callback(lambda _, i=i: finished.append(i))
    worker.await_("prepare u1")
    time.sleep(PAUSE_S)
    assert not finished, "an error waits for its turn"
    worker.gates["compute u0"].set()
    futures[4].result(WAIT_S)
    assert finished == [0, 1, 2, 3, 4]
    assert [future.exception() for future in futures] == [None, *raises.values(), None]
    assert not {"compute u1", "commit u1", "commit u2"} & set(worker.journal)


def test_inputs_that_cannot_be_read_are_an_error_of_their_unit(begin):
    pipeline, (first,) = begin(Steps(), 1)
    lost = pipeline.submit(units(2)[1], lambda: (_ for _ in ()).throw(OSError("block lost")), None)
    assert isinstance(lost.exception(WAIT_S), OSError)
    assert first.result(WAIT_S).unit == "u0"


def test_a_unit_taken_with_care_overlaps_no_other(begin):
    worker = Steps()
    worker.gate("compute u1", "commit u1", "compute u2")
    _, futures = begin(worker, 5, cares={"u2"})
    for event, prepared in (("compute u1", 2), ("commit u1", 2), ("compute u2", 3)):
        worker.await_(event)
        time.sleep(PAUSE_S)
        assert worker.began("prepare") == ["u0", "u1", "u2"][:prepared]
        worker.gates[event].set()
    futures[4].result(WAIT_S)
    alone = [f"{step} u2{end}" for step in ("prepare", "compute", "commit") for end in ("", " done")]
    begin_at = worker.journal.index(alone[0])
    assert worker.journal[begin_at : begin_at + 6] == alone
    assert all(event.split()[1] in ("u0", "u1") for event in worker.journal[:begin_at])


def test_a_unit_taken_with_care_that_raises_lets_the_others_go_on(begin):
    _, futures = begin(Steps({"compute u1": OSError("x")}), 3, cares={"u1"})
    assert futures[2].result(WAIT_S).unit == "u2"
    assert isinstance(futures[1].exception(), OSError)


def test_closing_waits_for_what_is_being_written_and_writes_nothing_more(begin):
    worker = Steps()
    worker.gate("commit u0", "compute u1")
    pipeline, futures = begin(worker, 4)
    worker.await_("commit u0", "compute u1", "prepare u2 done")
    closing = threading.Thread(target=pipeline.close)
    closing.start()
    closing.join(PAUSE_S)
    assert closing.is_alive()
    worker.gates["commit u0"].set()
    closing.join(WAIT_S)
    assert not closing.is_alive()
    assert futures[0].result(0).unit == "u0"
    worker.gates["compute u1"].set()
    worker.await_("compute u1 done")
    time.sleep(PAUSE_S)
    assert worker.began("commit") == ["u0"]
    assert worker.began("compute") == ["u0", "u1"]
    assert all(future.cancelled() for future in futures[1:])


def test_a_process_whose_pipeline_nobody_closed_can_end():
    code = "from harness.running.pipeline import Pipeline; from tests.distributed.test_pipeline import Steps"
    subprocess.run([sys.executable, "-c", f"{code}; Pipeline(Steps())"], check=True, timeout=60)


def assert_same(first, second):
    """Bit for bit."""
    left, right = load_records(first), load_records(second)
    assert len(left) > 0
    assert left.equals(right)
    return left


@pytest.mark.parametrize("where", [["cluster.address=inline"], ["cluster.address=local", "cluster.replicas=2"]])
def test_records_of_labels_are_the_same_when_units_overlap(shared_ray, small_grid, quiet_run, overlapping, where):
    overlapped = run(small_grid("name=overlapped", "cluster.shard_size=6", *where))
    records = assert_same(quiet_run, overlapped.run_dir)
    assert records["error"].isna().all()


def questions(out, *overrides):
    return load_config("configs/korquad_demo.yaml", question_overrides(out, "cluster.shard_size=12", *overrides))


def test_answers_are_the_same_when_units_overlap(tmp_path, request, monkeypatch):
    whole, unlucky = LoadedModel.generate, 0

    def generate(self, prompts, ending):
        if any(len(prompt.ids) == unlucky for prompt in prompts):
            raise RuntimeError("poison")
        return whole(self, prompts, ending)

    monkeypatch.setattr(LoadedModel, "generate", generate)
    samples = prepare(questions(tmp_path)).data.samples
    fail_to_render(monkeypatch, samples[20].id)
    plain = questions(tmp_path, "name=whole", "grid.k=[0]", "task.limit=30")
    unlucky = int(load_records(run(plain).run_dir)["n_prompt_tokens"].max())
    alone = run(questions(tmp_path, "name=alone"))
    request.getfixturevalue("overlapping")
    overlapped = run(questions(tmp_path, "name=overlapped"))
    records = assert_same(alone.run_dir, overlapped.run_dir)
    failed = records[records["error"].notna()]
    assert set(failed["error_type"]) == {"TemplateError", "RuntimeError"}
    assert len(failed) < 20


def fail_to_render(monkeypatch, sample_id):
    whole = Renderer.prompts

    def prompts(self, samples, seed, ks):
        if any(sample.id == sample_id for sample in samples):
            raise TemplateError("a label merges")
        return whole(self, samples, seed, ks)

    monkeypatch.setattr(Renderer, "prompts", prompts)


def fail_to_score(monkeypatch, config, sample, error):
    """Let prompts of `lecture_1` that end with a sample's text raise in the engine."""
    tail = prepare(config).models[0].tokenizer.whole(f"문장: {sample.fields['document']}\n감정:")
    whole = LoadedModel.score

    def score(self, prompts, prepared=None):
        if any(prompt.ids[-len(tail) :] == tail for prompt in prompts):
            raise error
        return whole(self, prompts, prepared)

    monkeypatch.setattr(LoadedModel, "score", score)


def test_bad_samples_are_found_alone_when_units_overlap(small_grid, quiet_run, request, monkeypatch):
    samples = prepare(small_grid()).data.samples
    fail_to_score(monkeypatch, small_grid(), samples[5], RuntimeError("poison"))
    fail_to_render(monkeypatch, samples[9].id)
    alone = run(small_grid("name=alone", "cluster.shard_size=12"))
    request.getfixturevalue("overlapping")
    overlapped = run(small_grid("name=overlapped", "cluster.shard_size=12"))
    records = assert_same(alone.run_dir, overlapped.run_dir)
    failed = records[records["error"].notna()].groupby("error_type")
    assert failed["sample_id"].unique().map(list).to_dict() == {
        "RuntimeError": [samples[5].id],
        "TemplateError": [samples[9].id],
    }
    assert failed.size().to_dict() == {"RuntimeError": 6, "TemplateError": 12}
    quiet = load_records(quiet_run)
    assert records[records["error"].isna()].equals(quiet[records["error"].isna()])


def test_a_part_that_cannot_be_written_is_written_at_the_next_try(small_grid, quiet_run, overlapping, monkeypatch):
    whole, refused = RunStore.write_part, []

    def write_part(self, unit_id, *rest):
        if not refused:
            refused.append(unit_id)
            raise ConnectionError("no answer")
        return whole(self, unit_id, *rest)

    monkeypatch.setattr(RunStore, "write_part", write_part)
    result = run(small_grid("cluster.shard_size=12"))
    told = [line for line in Path(result.run_dir, "run.log").read_text().splitlines() if "(attempt 1)" in line]
    assert len(told) == 1
    assert f"unit {refused[0]} failed (attempt 1): no answer" in told[0]
    assert_same(quiet_run, result.run_dir)


def test_a_disk_that_is_full_ends_the_run_when_units_overlap(small_grid, overlapping, monkeypatch):
    def write_part(self, unit_id, *rest):
        raise RunDirError(f"'{unit_id}' cannot be written: no room")

    monkeypatch.setattr(RunStore, "write_part", write_part)
    with pytest.raises(RunDirError, match="no room"):
        run(small_grid())
    assert {"prepare", "compute", "commit"}.isdisjoint(thread.name for thread in living_threads())


def living_threads():
    """Threads, once those that are ending have had time to."""
    time.sleep(1)
    return threading.enumerate()


def test_seconds_are_those_of_the_steps_without_waiting(small_grid, overlapping, monkeypatch):
    """Writing takes far longer than all else, so that units wait for each other."""
    whole = RunStore.write_part

    def write_part(self, *rest):
        time.sleep(0.5)
        return whole(self, *rest)

    monkeypatch.setattr(RunStore, "write_part", write_part)
    started = time.monotonic()
    result = run(small_grid("cluster.shard_size=6", "grid.templates=[good_bad]"))
    passed = time.monotonic() - started
    store = RunStore(result.run_dir)
    taken = [store.read_statistics(unit) for unit in store.part_ids()]
    assert len(taken) == 12
    assert passed > 6
    assert sum(unit["seconds"] for unit in taken) < passed - 4
    assert all(0 < unit["scoring_seconds"] < unit["seconds"] for unit in taken)


def test_a_run_that_is_killed_while_units_overlap_resumes_with_the_same_records(small_grid, quiet_run):
    config = small_grid("name=hit", "cluster.shard_size=3")
    command = [sys.executable, "-m", "tests.distributed.overlapping", "run", "configs/demo.yaml"]
    process = Forked([*command, *overrides_of(config)], stderr=subprocess.PIPE, text=True)
    try:
        wait_for_parts(config.run_dir, 4, process)
    finally:
        process.kill()
        process.communicate()
    before = part_times(config.run_dir)
    assert 4 <= len(before) < 48
    resumed = run(small_grid("name=hit"))
    after = part_times(config.run_dir)
    assert {name: after[name] for name in before} == before
    assert_same(quiet_run, resumed.run_dir)


def test_a_signal_stops_a_run_while_units_overlap(small_grid):
    config = small_grid("name=hit", "task.limit=200", "cluster.shard_size=3")
    command = [sys.executable, "-m", "tests.distributed.overlapping", "run", "configs/demo.yaml"]
    process = Forked([*command, *overrides_of(config)], stderr=subprocess.PIPE, text=True)
    wait_for_parts(config.run_dir, 3, process)
    process.terminate()
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 143
    assert "committed work is kept. Go on with: harness run configs/demo.yaml" in errors
    assert "Traceback" not in errors
    assert not list(Path(config.run_dir).glob("parts/*.tmp"))
    assert json.loads(Path(config.run_dir, "manifest.json").read_text())["status"] == "interrupted"
