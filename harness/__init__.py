"""Compare prompt strategies for language models, on a laptop or a cluster of GPUs.

from harness import load_records, plan, run
run("configs/demo.yaml", ["task.limit=100"])
records = load_records("data_out/demo")

A task of your own imports `Sample`, `Task`, `TaskData`, `TaskConfig`, `LabelScores` and `DataError` from here.
"""

from __future__ import annotations

from harness.api import load_records, plan, run
from harness.config.schema import TaskConfig
from harness.core.errors import DataError
from harness.core.task import LabelScores, Sample, Task, TaskData

__all__ = ["DataError", "LabelScores", "Sample", "Task", "TaskConfig", "TaskData", "load_records", "plan", "run"]
__version__ = "0.1.0"
