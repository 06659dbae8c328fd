"""Matrix products come out the same for any number of rows and threads."""

import os
import subprocess
import sys

import pytest

from harness.engine.local.layers.reproducibility import STRICT, VARIABLE, fix_order_of_sums

PRODUCTS = """
import torch
from harness.engine.local.layers.reproducibility import fix_order_of_sums
fix_order_of_sums()
torch.manual_seed(0)
for inner, outer in ((1024, 256), (2048, 512), (256, 1024)):
    weight, bias, rows = torch.randn(outer, inner), torch.randn(outer), torch.randn(1024, inner)
    torch.set_num_threads(1)
    alone = torch.nn.functional.linear(rows, weight, bias)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for n in (*range(16, 140), 200, 255, 256, 257, 500, 1024):
            assert torch.equal(torch.nn.functional.linear(rows[:n], weight, bias), alone[:n]), (inner, threads, n)
"""


@pytest.fixture
def processors(tmp_path):
    """A file as Linux writes it."""

    def make(vendor):
        file = tmp_path / "cpuinfo"
        file.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
        return file

    return make


def test_intel_gets_the_strict_mode_and_others_are_left_alone(monkeypatch, processors, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    fix_order_of_sums(processors("AuthenticAMD"))
    fix_order_of_sums(tmp_path / "missing")
    assert VARIABLE not in os.environ
    fix_order_of_sums(processors("GenuineIntel"))
    assert os.environ[VARIABLE] == STRICT
    monkeypatch.setenv(VARIABLE, "COMPATIBLE")
    fix_order_of_sums(processors("GenuineIntel"))
    assert os.environ[VARIABLE] == "COMPATIBLE"


@pytest.mark.skipif(VARIABLE not in os.environ, reason="nothing is asked of this maker's processors")
def test_products_do_not_depend_on_rows_and_threads():
    """In a process of its own, that has multiplied nothing before."""
    done = subprocess.run([sys.executable, "-c", PRODUCTS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
