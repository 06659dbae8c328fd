"""A task on the embedded questions whose metric kills the process, or fails, on chosen samples."""

from __future__ import annotations

import dataclasses
import os
import re
import signal

from harness.core.task import Sample
from tasks.korquad import TASK_1

KILLER = "demo1-1-0-1"


def deadly(answer: str, sample: Sample) -> float:
    if sample.id == KILLER:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def hanging(answer: str, sample: Sample) -> float:
    """Never comes back on one sample, and never lets another thread of the interpreter run."""
    if sample.id == KILLER:
        re.match(r"(a+)+$", "a" * 80 + "b")
    return 1.0


def harmless(answer: str, sample: Sample) -> float:
    return 1.0


def broken(answer: str, sample: Sample) -> float:
    raise ArithmeticError("no number")


TASK = dataclasses.replace(TASK_1, name="poison", answer_metrics={"alive": deadly})
HANGING = dataclasses.replace(TASK_1, name="poison", answer_metrics={"alive": hanging})
HARMLESS = dataclasses.replace(TASK_1, name="poison", answer_metrics={"alive": harmless})
FAILING = dataclasses.replace(TASK_1, name="failing", answer_metrics={"number": broken})
