"""A task on the embedded questions whose metric kills the process, or fails, on chosen samples."""

from __future__ import annotations

import dataclasses
import os
import signal

from harness.core.task import Sample
from tasks.korquad import TASK_1

KILLER = "demo1-1-0-1"


def deadly(answer: str, sample: Sample) -> float:
    if sample.id == KILLER:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def broken(answer: str, sample: Sample) -> float:
    raise ArithmeticError("no number")


TASK = dataclasses.replace(TASK_1, name="poison", answer_metrics={"alive": deadly})
FAILING = dataclasses.replace(TASK_1, name="failing", answer_metrics={"number": broken})
