"""Compare prompt strategies for language models, on a laptop or a cluster of GPUs.

from harness import compare, load_records, run
result = run("configs/demo.yaml", ["task.limit=100"])
records = load_records(result.run_dir, text=True)
print(compare(result.run_dir, by=["template", "k"]).best)

A task of your own imports `Sample`, `Task`, `TaskData`, `TaskConfig`, `LabelScores`, `DataError`, and where it has
official files or formats of its own `RemoteFile` and `ExportFormat`, from here.
"""

from __future__ import annotations

from harness.api import calibrate, compare, load_records, load_samples, plan, race, report, run
from harness.config.schema import TaskConfig
from harness.core.errors import DataError
from harness.core.task import ExportFormat, LabelScores, RemoteFile, Sample, Task, TaskData

__all__ = [
    "DataError", "ExportFormat", "LabelScores", "RemoteFile", "Sample", "Task", "TaskConfig", "TaskData",
    "calibrate", "compare", "load_records", "load_samples", "plan", "race", "report", "run",
]  # fmt: skip
__version__ = "0.1.0"
