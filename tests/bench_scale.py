"""A run of 8.75 million prompts on 64 replicas, with scores that are made up: what the harness itself takes.

    make bench-scale
    python tests/bench_scale.py --data ../shared/data/nsmc --stages plan run --out /tmp/scale

50,000 samples x 5 templates x 5 seeds x 7 K of `configs/nsmc_grid.yaml`. The driver is the real one, and so are
the plan, the dispatch loop, the schema and the store; only the replicas are played, by two processes that
write the parts of 64. Each stage is a process of its own, so that its wall time and its largest resident
memory are its alone; the stages after `run` need its records.

Without `--data` reviews are put together from words of the embedded ones.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS, REPLICAS, PROCESSES = 50_000, 64, 2
NAME = "scale"
STAGES = ("plan", "run", "status", "resume", "again", "show", "compare")


def overrides(arguments) -> list[str]:
    return [
        "model.path=data_in/models/ko-tiny", f"task.data_dir={arguments.data}", f"task.limit={arguments.rows}",
        f"out={arguments.out}", f"name={NAME}", "cluster.address=inline",
        f"cluster.shard_size={arguments.shard_size}",
    ]  # fmt: skip


# Children ---------------------------------------------------------------------------------------------------------


def plan(arguments) -> None:
    from harness.config.loading import load_config
    from harness.planning.report import make_report

    report = make_report(load_config("configs/nsmc_grid.yaml", overrides(arguments)))
    print(f"{report.prompts:,} records, {report.prompts_scored:,} prompts, {report.tokens_unique:,} unique tokens")


def run(arguments) -> None:
    """The real driver on played replicas."""
    from contextlib import contextmanager

    from harness.config.loading import load_config
    from harness.running import driver

    rss: list[float] = []
    spent = {}

    def dispatch(units, pool, on_done, *others):
        def measured(unit, report):
            on_done(unit, report)
            rss.append(resident_mb())

        started, clock = time.process_time(), time.perf_counter()
        inner(units, pool, measured, *others)
        spent["cpu"], spent["wall"] = time.process_time() - started, time.perf_counter() - clock

    @contextmanager
    def backend(config, resources):
        yield Simulation()

    inner, driver.dispatch, driver.open_backend = driver.dispatch, dispatch, backend
    driver.run(load_config("configs/nsmc_grid.yaml", overrides(arguments)))
    if rss:
        marks = [rss[int(share * (len(rss) - 1))] for share in (0, 0.25, 0.5, 0.75, 1)]
        print(
            f"{len(rss):,} units in {spent['wall']:.1f} s; the driver took {spent['cpu'] / len(rss) * 1e3:.2f} ms of "
            f"processor time per unit; resident after 0, 25, 50, 75, 100% of them: "
            + ", ".join(f"{mark:,.0f}" for mark in marks)
            + " MB"
        )


def resume(arguments) -> None:
    """What a driver that starts again does before it goes on: the plan, and whether parts are whole."""
    from harness.config.loading import load_config
    from harness.planning.preparation import prepare
    from harness.planning.units import make_plan
    from harness.results.store import RunStore
    from harness.running.committed import read_committed

    config = load_config("configs/nsmc_grid.yaml", overrides(arguments))
    store = RunStore(config.run_dir)
    shard_size = store.read_json("manifest.json")["shard_size"]
    times = [time.perf_counter()]
    prepared = prepare(config)
    times.append(time.perf_counter())
    made = make_plan(prepared, shard_size)
    times.append(time.perf_counter())
    ids = store.part_ids()
    times.append(time.perf_counter())
    done = read_committed(store, made, {}, 10**6).statistics
    times.append(time.perf_counter())
    steps = ("preparing", "units", "listing", "verifying")
    print(f"{len(ids):,} parts listed, {len(done):,} of {len(made.units):,} units whole; seconds: ", end="")
    print(", ".join(f"{step} {b - a:.1f}" for step, a, b in zip(steps, times, times[1:], strict=False)))


class Simulation:
    """A backend of 64 replicas, done by a few processes."""

    n_replicas = REPLICAS

    def pool(self, spec, draw, shards, lecture, useful, stop):
        from contextlib import contextmanager

        from harness.engine.protocol import EngineFacts

        @contextmanager
        def opened():
            with Replicas(spec, shards) as pool:
                yield pool, EngineFacts("none", "float64", True)

        return opened()


class Replicas:
    def __init__(self, spec, shards) -> None:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        from queue import SimpleQueue

        context = multiprocessing.get_context("spawn")
        self.processes = ProcessPoolExecutor(PROCESSES, context, open_store, (spec.config.run_dir,))
        self.shards, self.done = shards, SimpleQueue()
        self.members = [Replica(f"replica {i}", self) for i in range(REPLICAS)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.processes.shutdown()

    def replicas(self, useful):
        return self.members

    def under_way(self):
        return {}

    def wait(self, handles, timeout_s):
        from queue import Empty

        try:
            return [self.done.get(timeout=timeout_s)] + [self.done.get() for _ in range(self.done.qsize())]
        except Empty:
            return []

    def result(self, handle):
        return handle.result()

    def release(self, replica):
        self.members = [member for member in self.members if member is not replica]


class Replica:
    def __init__(self, name, pool) -> None:
        self.name, self.pool = name, pool

    def submit(self, unit, handling):
        samples = [(s.id, s.gold) for s in self.pool.shards[unit.shard].samples]
        future = self.pool.processes.submit(write_unit, unit, samples)
        future.add_done_callback(self.pool.done.put)
        return future


def open_store(run_dir) -> None:
    global STORE
    from harness.results.store import RunStore

    STORE = RunStore(run_dir)


def write_unit(unit, samples):
    """Commit a unit whose scores follow from its id alone."""
    import dataclasses

    import numpy as np
    import pyarrow as pa

    from harness.results.schema import SCHEMA, UnitStatistics
    from harness.running.messages import UnitReport

    started = time.perf_counter()
    cells = [(k, unit.seed) for k in unit.ks]
    rng, n = np.random.default_rng(int(unit.id[:16], 16)), len(samples)
    gold = np.array([gold for _, gold in samples], dtype=np.int32)
    drawn = {}
    for k in unit.ks:
        margin = np.where(gold == 1, 1, -1) * rng.normal(0.3 + 0.1 * np.log1p(k), 1, n)
        mass = rng.uniform(0.01, 0.2, n)
        drawn[k] = margin, mass, rng.integers(20, 60, n) + 20 * k
    margin, mass, tokens = (np.concatenate([drawn[k][i] for k, _ in cells]) for i in range(3))
    rows = n * len(cells)
    logprobs = np.stack([-np.logaddexp(0, margin), -np.logaddexp(0, -margin)], 1) + np.log1p(-mass)[:, None]
    predicted = (margin > 0).astype(np.int32)
    offsets = np.arange(0, 2 * rows + 1, 2, dtype=np.int32)
    text = np.where(mass > 0.15, " 영화", np.where(predicted == 1, " 긍정", " 부정"))
    columns = {
        "model": [unit.model] * rows, "task": [unit.task] * rows, "template": [unit.template] * rows,
        "k": np.repeat([k for k, _ in cells], n), "seed": np.repeat([seed for _, seed in cells], n),
        "sample_id": [i for i, _ in samples] * len(cells), "gold": np.tile(gold, len(cells)), "prediction": predicted,
        "label_logprobs": pa.ListArray.from_arrays(offsets, logprobs.ravel()),
        "label_token_counts": pa.ListArray.from_arrays(offsets, pa.array(np.ones(2 * rows, np.int32))),
        "argmax_token": predicted + 1000, "argmax_text": text,
        "greedy_prediction": pa.array(predicted, mask=mass > 0.15), "off_label_mass": mass,
        "n_prompt_tokens": tokens,
    }  # fmt: skip
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(rows, f.type) for f in SCHEMA]
    statistics = UnitStatistics(rows, 0, n * len(unit.ks), int(tokens.sum()), rows * 20, 1.0, 1.0, "simulated")
    keys = dict(zip(unit.ks, unit.keys, strict=True))
    STORE.write_part(unit.id, pa.table(arrays, schema=SCHEMA), dataclasses.asdict(statistics), keys)
    return UnitReport(unit.id, dataclasses.replace(statistics, seconds=time.perf_counter() - started))


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# The parent -------------------------------------------------------------------------------------------------------


def invented_reviews(folder: Path, rows: int) -> Path:
    """Files in NSMC's format, of words of the embedded reviews."""
    words: list[str] = []
    for line in Path("data_in/nsmc_demo/ratings_train.txt").read_text(encoding="utf-8").splitlines()[1:]:
        words += line.split("\t")[1].split()
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, n, first in (("ratings_train.txt", 3 * rows, 0), ("ratings_test.txt", rows, 10**7)):
        with open(folder / name, "w", encoding="utf-8") as file:
            file.write("id\tdocument\tlabel\n")
            for i in range(n):
                file.write(f"{first + i}\t{' '.join(rng.choices(words, k=rng.randint(3, 14)))}\t{i % 2}\n")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--data", help="folder with NSMC's files; invented reviews by default")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--shard-size", default="auto")
    parser.add_argument("--out", help="folder for the run directory; a temporary one by default")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        {"plan": plan, "run": run, "resume": resume, "again": run}[arguments.stages[0]](arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.out = arguments.out or folder
        Path(arguments.out).mkdir(parents=True, exist_ok=True)
        arguments.data = arguments.data or str(invented_reviews(Path(arguments.out) / "reviews", arguments.rows))
        for stage in arguments.stages:
            measure(stage, arguments)


def measure(stage: str, arguments) -> None:
    """Run a stage and say what it took."""
    run_dir = f"{arguments.out}/{NAME}"
    verbs = {"show": ["--format", "csv"], "compare": ["--by", "template,k", "--format", "csv"], "status": []}
    if stage in verbs:
        words = ["-m", "harness", stage, run_dir, *verbs[stage]]
    else:
        words = [
            __file__, "--child", "--stages", stage, "--data", arguments.data, "--rows", str(arguments.rows),
            "--shard-size", str(arguments.shard_size), "--out", arguments.out,
        ]  # fmt: skip
    started = time.perf_counter()
    with open(f"{arguments.out}/{stage}.out", "w+") as out, open(f"{arguments.out}/{stage}.err", "w+") as err:
        child = subprocess.Popen([sys.executable, *words], stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        out.seek(0)
        err.seek(0)
        if status:
            sys.exit(f"{stage} failed:\n{err.read()[-2000:]}")
        said = out.read().strip().splitlines()
    shown = f"{len(said)} lines" if stage in verbs else " ".join(said)
    processor = usage.ru_utime + usage.ru_stime
    print(f"{stage:8s} {seconds:6.1f} s, {processor:6.1f} s of processors, {usage.ru_maxrss / 1024:6,.0f} MB: {shown}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
