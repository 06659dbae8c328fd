"""The benchmark of scale still meets the driver that it drives: all its stages on a few reviews."""

import subprocess
import sys

import pytest

from tests.bench_scale import STAGES


@pytest.mark.slow
def test_all_stages_run_on_a_few_reviews(tmp_path):
    command = [sys.executable, "tests/bench_scale.py", "--rows", "40", "--shard-size", "20", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(STAGES)
    assert "50 of 50 units whole" in done.stdout
