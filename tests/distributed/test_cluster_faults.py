"""Faults and changes of a cluster of several nodes, caused for real, and what is left of the run afterwards.

Models are left out (`tests.fake_engine`); driver, dispatch, actors and storage are the real ones. Nodes, replicas and
drivers that are killed at random times are in `tests/chaos.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from harness import load_records
from harness.config.loading import load_config
from harness.planning.preparation import prepare
from tests.distributed.simulated import GRID, N_PROMPTS, N_UNITS, SimulatedCluster, start_driver
from tests.fake_engine import key

pytestmark = pytest.mark.slow
LIMIT_S = 240
QUICK = {"FAKE_SECONDS": "0.1"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    journal = tmp_path_factory.mktemp("journal") / "journal"
    with SimulatedCluster(environment={**QUICK, "FAKE_JOURNAL": str(journal)}) as cluster:
        cluster.journal = journal
        yield cluster


@contextmanager
def nodes(cluster, *wanted):
    cluster.journal.write_text("")
    added = [cluster.add(**node) for node in wanted]
    try:
        yield added
    finally:
        for node in added:
            cluster.kill(node)


def begun(cluster) -> list[list[str]]:
    """Prompt, process and node of everything that replicas began."""
    return [line.split() for line in cluster.journal.read_text().splitlines()]


def slow_end(seconds):
    """The environment of replicas that take their time over the grid's last unit."""
    prepared = prepare(load_config("configs/demo.yaml", GRID))
    grid, (setup,) = prepared.config.grid, prepared.models
    renderer = prepared.renderer(setup, grid.templates[-1], grid.seeds[-1])
    (last,) = renderer.prompts(prepared.data.samples[-1:], grid.seeds[-1], grid.k)
    return {"FAKE_SLOW": f"{key(last)}:{seconds}"}


def wait_until(condition, driver: subprocess.Popen) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def n_parts(run_dir: Path) -> int:
    return len(list(run_dir.glob("parts/*.parquet")))


def finish(driver: subprocess.Popen, status: int = 0) -> str:
    _, errors = driver.communicate(timeout=LIMIT_S)
    assert driver.returncode == status, errors
    assert "Traceback" not in errors
    return errors


def assert_whole(run_dir: Path) -> None:
    records = load_records(str(run_dir))
    assert len(records) == N_PROMPTS == len(records.drop_duplicates(["template", "seed", "sample_id"]))
    assert records["error"].isna().all()


def test_nodes_that_join_are_used_and_idle_replicas_are_released_at_the_tail(cluster, tmp_path):
    slow = {"num_gpus": 2, "env_vars": slow_end(8)}
    with nodes(cluster, slow) as [first]:
        driver = start_driver(cluster.address, tmp_path, "run")
        wait_until(lambda: n_parts(tmp_path / "run") >= 20, driver)
        assert {node for _, _, node in begun(cluster)} == {first}
        with nodes(cluster, slow) as [second]:
            wait_until(lambda: len({pid for _, pid, node in begun(cluster) if node == second}) == 2, driver)
            assert cluster.free().get("GPU", 0) == 0
            wait_until(lambda: cluster.free().get("GPU", 0) >= 2, driver)
            finish(driver)
    assert "the cluster has grown: 4 replicas instead of 2" in (tmp_path / "run" / "run.log").read_text()
    assert_whole(tmp_path / "run")


def test_type_fraction_and_number_of_gpus_decide_where_replicas_go(cluster, tmp_path):
    with nodes(cluster, {"num_gpus": 2}, {"num_gpus": 1, "resources": {"accelerator_type:L4": 1}}) as [pair, single]:
        finish(start_driver(cluster.address, tmp_path, "type", "cluster.accelerator_type=L4", "task.limit=4"))
        assert {node for _, _, node in begun(cluster)} == {single}

        driver = start_driver(cluster.address, tmp_path, "fraction", "model.gpus_per_replica=0.5")
        wait_until(lambda: len(cluster.replicas()) == 6, driver)
        assert cluster.free().get("GPU", 0) == 0
        finish(driver)
        assert_whole(tmp_path / "fraction")

        cluster.journal.write_text("")
        driver = start_driver(cluster.address, tmp_path, "pair", "model.gpus_per_replica=2")
        wait_until(lambda: n_parts(tmp_path / "pair") >= 5, driver)
        assert cluster.free()["GPU"] == 1, "two are taken by one replica"
        finish(driver)
        assert {node for _, _, node in begun(cluster)} == {pair}
        assert len({pid for _, pid, _ in begun(cluster)}) == 1
        assert_whole(tmp_path / "pair")


def test_a_node_where_the_model_does_not_load_is_avoided_and_named(cluster, tmp_path):
    broken = {"num_gpus": 2, "env_vars": {"FAKE_NO_MODEL": "1"}}
    with nodes(cluster, broken) as [bad]:
        driver = start_driver(cluster.address, tmp_path, "nowhere")
        errors = finish(driver, status=2)
        assert errors.splitlines()[-1] == "error: 'data_in/models/ko-tiny' has no weights on this node"
        with nodes(cluster, {"num_gpus": 1}) as [good]:
            finish(start_driver(cluster.address, tmp_path, "run", "task.limit=4"))
            assert {node for _, _, node in begun(cluster)} == {good} != {bad}
    log = (tmp_path / "run" / "run.log").read_text()
    assert f"does not load on node {os.uname().nodename} ({bad[:8]}), which is avoided from now on: " in log
    assert "has no weights on this node" in log


def test_a_node_where_loading_kills_the_process_is_avoided_and_nowhere_else_ends_the_run(cluster, tmp_path):
    (tmp_path / "deadly").write_text("1000")
    deadly = {"num_gpus": 1, "env_vars": {"FAKE_DEADLY": str(tmp_path / "deadly")}}
    with nodes(cluster, deadly) as [bad]:
        errors = finish(start_driver(cluster.address, tmp_path, "nowhere"), status=1)
        host = f"{os.uname().nodename} ({bad[:8]})"
        assert f"error: replicas died 3 times in a row while loading on node {host}; last cause" in errors
        with nodes(cluster, {"num_gpus": 1, "env_vars": slow_end(25)}) as [good]:
            finish(start_driver(cluster.address, tmp_path, "run"))
            assert {node for _, _, node in begun(cluster)} == {good}
    assert f"does not load on node {host}, which is avoided from now on" in (tmp_path / "run" / "run.log").read_text()
    assert_whole(tmp_path / "run")


@pytest.mark.parametrize(("deaths", "status"), [(6, 0), (1000, 1)])
def test_where_a_model_has_loaded_more_deaths_while_loading_are_somebodys_doing(cluster, tmp_path, deaths, status):
    deadly = tmp_path / "deadly"
    with nodes(cluster, {"num_gpus": 1, "env_vars": {"FAKE_DEADLY": str(deadly)}}):
        driver = start_driver(cluster.address, tmp_path, "run")
        wait_until(lambda: n_parts(tmp_path / "run") >= 20, driver)
        deadly.write_text(str(deaths))
        cluster.replicas()[0].kill()
        errors = finish(driver, status)
    died = (tmp_path / "run" / "run.log").read_text().count("died while loading on node")
    assert died == (deaths if status == 0 else 10)
    assert ("error: replicas died 10 times in a row while loading on node" in errors) == (status == 1)


def test_a_replica_that_hangs_is_overtaken_and_ended_with_the_run(cluster, tmp_path):
    with nodes(cluster, {"num_gpus": 2}):
        driver = start_driver(cluster.address, tmp_path, "run")
        wait_until(lambda: n_parts(tmp_path / "run") >= 20 and len(cluster.replicas()) == 2, driver)
        hanging = cluster.replicas()[0]
        hanging.send_signal(signal.SIGSTOP)
        try:
            finish(driver)
            _, alive = psutil.wait_procs([hanging], timeout=30)
            assert not alive, "the hanging replica outlives the run"
        finally:
            if hanging.is_running():
                hanging.kill()
    assert (tmp_path / "run" / "run.log").read_text().count(" drags on at ") == 1
    assert_whole(tmp_path / "run")


def test_all_gpu_nodes_may_go_and_others_come(cluster, tmp_path):
    with nodes(cluster) as _:
        old = [cluster.add(num_gpus=4) for _ in range(2)]
        driver = start_driver(cluster.address, tmp_path, "run", "model.device=cuda")
        wait_until(lambda: n_parts(tmp_path / "run") >= 20 and len(cluster.replicas()) == 8, driver)
        for node in old:
            cluster.kill(node)
        before = n_parts(tmp_path / "run")
        # Longer than the pool waits between two looks at the cluster.
        time.sleep(8)
        assert driver.poll() is None, driver.communicate()
        assert before < N_UNITS
        with nodes(cluster, {"num_gpus": 2}):
            finish(driver)
    assert_whole(tmp_path / "run")


def test_a_cluster_that_vanishes_ends_the_run_with_one_line_and_another_goes_on(tmp_path):
    with SimulatedCluster(environment={"FAKE_SECONDS": "0.3"}) as cluster:
        cluster.add(num_gpus=2)
        driver = start_driver(cluster.address, tmp_path, "run")
        wait_until(lambda: n_parts(tmp_path / "run") >= 10, driver)
        cluster.kill_head()
        began = time.monotonic()
        errors = finish(driver, status=1)
        assert time.monotonic() - began < 60, "Ray's own patience"
    told = f"error: the cluster's head at {cluster.address} has not answered for"
    assert errors.splitlines()[-1].startswith(told) and "committed work is kept" in errors
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "failed"
    before = {part: part.stat().st_mtime_ns for part in (tmp_path / "run").glob("parts/*.parquet")}
    assert 10 <= len(before) < N_UNITS
    with SimulatedCluster(environment=QUICK) as another:
        another.add(num_gpus=2)
        finish(start_driver(another.address, tmp_path, "run"))
    assert {part: part.stat().st_mtime_ns for part in before} == before
    assert_whole(tmp_path / "run")


HOLDER = """
import sys
import numpy, ray
ray.init(address=sys.argv[1], log_to_driver=False)
held = [ray.put(numpy.ones(2**20, dtype=numpy.uint8)) for _ in range(int(sys.argv[2]))]
print(len(held), flush=True)
sys.stdin.read()
"""


def test_a_full_object_store_of_the_head_does_not_stop_a_run(cluster, tmp_path):
    with nodes(cluster, {"num_gpus": 1}):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, cluster.address, "120"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert holder.stdout.readline() == "120\n", "more than the store holds"
            finish(start_driver(cluster.address, tmp_path, "run"))
        finally:
            holder.kill()
            holder.communicate()
    assert_whole(tmp_path / "run")
