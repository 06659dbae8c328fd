"""Compare prompt strategies for language models, on a laptop or a cluster of GPUs.

from harness import load_records, plan, run
run("configs/demo.yaml", ["task.limit=100"])
records = load_records("data_out/demo")

A task of your own imports `Sample`, `Task`, `TaskData`, `TaskConfig`, `LabelScores`, `DataError`, and where it has
official files or formats of its own `RemoteFile` and `ExportFormat`, from here.
"""

from __future__ import annotations

from harness.api import load_records, plan, run
from harness.config.schema import TaskConfig
from harness.core.errors import DataError
from harness.core.task import ExportFormat, LabelScores, RemoteFile, Sample, Task, TaskData

__all__ = [
    "DataError", "ExportFormat", "LabelScores", "RemoteFile", "Sample", "Task", "TaskConfig", "TaskData",
    "load_records", "plan", "run",
]  # fmt: skip
__version__ = "0.1.0"
