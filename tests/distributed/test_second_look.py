"""Samples that were out for ending processes are tried again where processes ended without them too."""

from __future__ import annotations

import json

import pytest

from harness import load_records
from harness.planning.preparation import prepare
from harness.results.quarantine import NAME, Ending, Quarantine, Trial
from harness.results.store import RunStore
from harness.running import driver

FAKE = ["model.engine=tests.fake_engine:ENGINE", "cluster.replicas=1", "cluster.shard_size=12"]


@pytest.fixture
def with_suspect(small_grid, monkeypatch):
    """A function that runs a grid of which one sample is out from before, and while which others end a process."""

    def start(*overrides):
        config = small_grid(*FAKE, *overrides)
        sample = prepare(config).data.samples[10].id
        store = RunStore(config.run_dir)
        store.create()
        quarantine = Quarantine(store)
        for process in ("host/1", "host/2"):
            quarantine.add(sample, Trial("u", process, Ending.DIED, "killed"))
        whole = driver.dispatch
        sessions = []

        def dispatch(source, pool, on_done, should_stop, precautions, timing):
            whole(source, pool, on_done, should_stop, precautions, timing)
            sessions.append(precautions)
            if len(sessions) == 1:
                precautions.quarantine.count_other_deaths(1)

        monkeypatch.setattr(driver, "dispatch", dispatch)
        return sample, driver.run(config), len(sessions)

    return start


def test_an_innocent_sample_has_its_records_at_the_end_of_the_same_run(shared_ray, with_suspect, caplog):
    _, result, n_sessions = with_suspect("cluster.address=local")
    records = load_records(result.run_dir)
    assert records["error_type"].isna().all()
    assert result.failed_share == 0
    assert n_sessions == 2
    assert "tried again that ended their process by themselves, since processes ended without them" in caplog.text
    assert json.loads(RunStore(result.run_dir).read_bytes(NAME))["samples"] == {}


def test_a_run_in_this_very_process_does_not_risk_it(with_suspect):
    sample, result, n_sessions = with_suspect("cluster.address=inline")
    records = load_records(result.run_dir)
    failed = records[records["error_type"].notna()]
    assert set(failed["sample_id"]) == {sample} and set(failed["error_type"]) == {"ReplicaDied"}
    assert n_sessions == 1
