"""Samples that end or hang processes, and processes that others end, on a real Ray without models; round after round.

Rounds are many because these faults depend on moments. `test_dispatch` has the same against fake replicas.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from contextlib import contextmanager

import psutil
import pytest

from harness import load_records
from harness.cluster.deaths import memory_words
from harness.config.loading import load_config
from harness.planning.preparation import prepare
from tests.distributed.simulated import GRID, SimulatedCluster, start_driver

ROUNDS = 10
POISON_ROUNDS = 20
ALL_IN_ONE_SHARD = [
    "model.engine=tests.deadly_engine:ENGINE", "task.limit=20", "grid.seeds=[1,2,3,4,5]", "cluster.shard_size=20"
]  # fmt: skip
"""25 units, of 5 templates and 5 seeds, with every sample in each."""
LIMIT_S = 400
KEYS = ["template", "k", "seed", "sample_id"]


def samples():
    return prepare(load_config("configs/demo.yaml", [*GRID, *ALL_IN_ONE_SHARD])).data.samples


@contextmanager
def cluster_of(tmp_path, gpus: int, **environment: str):
    journal = tmp_path / "journal"
    journal.touch()
    variables = {"FAKE_SECONDS": "0.02", "FAKE_JOURNAL": str(journal), **environment}
    with SimulatedCluster(environment=variables) as cluster:
        cluster.journal = journal
        cluster.add(num_gpus=gpus)
        yield cluster


def finish(driver: subprocess.Popen, status: int = 0) -> str:
    _, errors = driver.communicate(timeout=LIMIT_S)
    assert driver.returncode == status, errors
    assert "Traceback" not in errors
    return errors


def deaths(cluster) -> int:
    return sum(line.startswith("death") for line in cluster.journal.read_text().splitlines())


def assert_only(sample: str, error_type: str, run_dir, quiet=None) -> None:
    records = load_records(str(run_dir))
    assert len(records) == 20 * 25 == len(records.drop_duplicates(KEYS))
    failed = records["error_type"].notna()
    assert set(records[failed]["sample_id"]) == {sample}
    assert set(records[failed]["error_type"]) == {error_type}
    assert failed.sum() == 25
    if quiet is not None:
        assert records[~failed].equals(quiet[~failed])


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
        with cluster_of(folder, 2) as cluster:
            finish(start_driver(cluster.address, folder, "quiet", *ALL_IN_ONE_SHARD))
    return load_records(str(folder / "quiet"))


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 4, 16])
def test_a_sample_that_kills_in_every_unit_costs_four_processes_at_most(tmp_path, quiet, n):
    poison = samples()[7]
    with cluster_of(tmp_path, n, FAKE_POISON=poison.fields["document"]) as cluster:
        for number in range(POISON_ROUNDS):
            cluster.journal.write_text("")
            driver = start_driver(
                cluster.address, tmp_path, f"run{number}", *ALL_IN_ONE_SHARD, "run.max_failed_share=1"
            )
            finish(driver)
            assert_only(poison.id, "ReplicaDied", tmp_path / f"run{number}", quiet)
            assert deaths(cluster) <= 4
        again = start_driver(cluster.address, tmp_path, "run0", *ALL_IN_ONE_SHARD, "run.max_failed_share=1")
        assert "25 committed before" in finish(again)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 4])
def test_a_sample_that_hangs_in_every_unit_is_out_and_tried_again_later(tmp_path, quiet, n):
    poison = samples()[7]
    limits = ["run.hang_after_s=2", "run.max_failed_share=1"]
    with cluster_of(tmp_path, n, FAKE_HANG=poison.fields["document"]) as cluster:
        for number in range(ROUNDS):
            driver = start_driver(cluster.address, tmp_path, f"run{number}", *ALL_IN_ONE_SHARD, *limits)
            finish(driver)
            assert_only(poison.id, "TimeLimit", tmp_path / f"run{number}", quiet)
    with cluster_of(tmp_path, n) as cluster:
        driver = start_driver(cluster.address, tmp_path, "run0", *ALL_IN_ONE_SHARD, *limits)
        assert "25 failed samples of 25 committed units are tried again" in finish(driver)
    assert load_records(str(tmp_path / "run0")).equals(quiet)


@pytest.mark.slow
def test_the_only_replica_may_be_stopped(tmp_path, quiet):
    with cluster_of(tmp_path, 1) as cluster:
        for number in range(ROUNDS):
            driver = start_driver(cluster.address, tmp_path, f"run{number}", *ALL_IN_ONE_SHARD, "run.hang_after_s=3")
            run_dir = tmp_path / f"run{number}"
            while len(list(run_dir.glob("parts/*.parquet"))) < number + 1:
                assert driver.poll() is None, driver.communicate()
                time.sleep(0.02)
            (stopped,) = cluster.replicas()
            stopped.send_signal(signal.SIGSTOP)
            finish(driver)
            assert "no end within 3 s" in (run_dir / "run.log").read_text()
            assert load_records(str(run_dir)).equals(quiet)
            assert not stopped.is_running() or stopped.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 4])
def test_replicas_that_somebody_kills_again_and_again_cost_no_sample(tmp_path, quiet, n):
    draws = random.Random(n)
    killed = 0
    with cluster_of(tmp_path, n, FAKE_SECONDS=str(0.5 * n)) as cluster:
        for number in range(ROUNDS):
            driver = start_driver(cluster.address, tmp_path, f"run{number}", *ALL_IN_ONE_SHARD)
            over = threading.Event()
            while not over.wait(draws.uniform(0.5, 4.0)) and driver.poll() is None:
                before = len(list((tmp_path / f"run{number}").glob("parts/*.parquet")))
                replicas = cluster.replicas()
                if before and replicas:
                    draws.choice(replicas).kill()
                    killed += 1
                if killed > 6 * (number + 1):
                    break
            finish(driver)
            assert load_records(str(tmp_path / f"run{number}")).equals(quiet)
    assert killed >= 2 * ROUNDS


@pytest.mark.slow
def test_a_replica_that_the_memory_monitor_ends_each_time_it_loads_ends_the_run_with_what_is_missing(tmp_path):
    memory = psutil.virtual_memory()
    if memory.available < 14 * 2**30:
        pytest.skip("less than 14 GiB of memory are free")
    threshold = (memory.used + 3 * 2**30) / memory.total
    environment = {"RAY_memory_usage_threshold": f"{threshold:.3f}", "RAY_memory_monitor_refresh_ms": "100"}
    with cluster_of(tmp_path, 1, FAKE_HUNGRY="9", **environment) as cluster:
        errors = finish(start_driver(cluster.address, tmp_path, "run", *ALL_IN_ONE_SHARD), status=1)
    assert "Ray's memory monitor ended it: the node's processes held" in errors.splitlines()[-1]
    assert "GiB are missing" in errors.splitlines()[-1]


RAYS_WORDS = """1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.2) \
was 4.09GB used / 23.54GB limit (0.173767)
OOM kill reason: Memory usage 4392226816B exceeded threshold of 4273931776B (16.9% of 25276510208B limit)
Object store memory usage: [- objects spillable: 0
Selected to kill: (Actor(c7f8): job ID=01000000, lease ID=00, task name=A.__init__, required resources={CPU: 1}, \
pid=24537, actual memory used=1.31GB, worker ID=f67c)
"""


def test_what_the_memory_monitor_says_becomes_one_line_with_what_is_missing():
    assert memory_words(RAYS_WORDS) == (
        "Ray's memory monitor ended it: the node's processes held 4.09 GiB when this process had come to 1.31 GiB, but "
        "may hold 3.98 GiB (RAY_memory_usage_threshold), so at least 0.11 GiB are missing; free memory there, lower "
        "cluster.replicas, or use a node with more"
    )
    assert memory_words("words of another version") == "Ray's memory monitor ended it"
