"""Replicas say how far their units are, while these are computed."""

import threading
from contextlib import contextmanager

import pytest

from harness import run
from harness.reporting.progress import RunProgress
from harness.running import driver
from tests.distributed.compare import assert_equal_records


@pytest.mark.parametrize("address", ["inline", pytest.param("local", marks=pytest.mark.slow)])
def test_prompts_of_units_under_way_are_counted_and_change_no_record(
    small_grid, quiet_run, request, monkeypatch, address
):
    if address == "local":
        request.getfixturevalue("shared_ray")
    seen = []

    class Watched(RunProgress):
        @contextmanager
        def working(self, under_way=dict):
            over = threading.Event()

            def look():
                while not over.wait(0.005):
                    seen.append(under_way())

            looking = threading.Thread(target=look)
            with super().working():
                looking.start()
                try:
                    yield
                finally:
                    over.set()
                    looking.join()

    monkeypatch.setattr(driver, "RunProgress", Watched)
    # Many small passes, so that there is something to be seen of each unit.
    found = run(small_grid(f"cluster.address={address}", "engine.tokens_per_pack=256", "engine.share_prefixes=false"))
    counts = [n for one in seen for n in one.values()]
    assert any(0 < n < 108 for n in counts), "between the beginning of a unit and its end"
    assert max(counts) <= 36 * 3
    assert_equal_records(quiet_run, found.run_dir, tolerance=1e-3)
