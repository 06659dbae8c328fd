"""Compare prompt strategies for language models, on a laptop or a cluster of GPUs.

from harness import load_records, plan, run
run("configs/demo.yaml", ["task.limit=100"])
records = load_records("data_out/demo")
"""

from __future__ import annotations

from harness.api import load_records, plan, run

__all__ = ["load_records", "plan", "run"]
__version__ = "0.1.0"
