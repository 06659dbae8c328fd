"""A process that runs steps one after another and tells a file of events how they go.

    python -m tests.gpu.child EVENTS STEPS

STEPS is JSON: pairs of a step's name and its function, `module:function`.
It ends early where the device does not answer any more: what comes after needs a new process.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from tests.gpu.results import FAILED, OK, RUNNING, SKIPPED, WRONG
from tests.gpu.steps import Note, SkippedError, WrongError

BROKEN = 75
"""Exit status where the device is broken."""


def main(events: Path, steps: list[tuple[str, str]]) -> int:
    """Run steps; the exit status."""
    warnings.filterwarnings("ignore", message=".*flex_attention called without torch.compile.*")

    def tell(step: str, **entry: Any) -> None:
        with events.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **entry}, default=_plain) + "\n")

    for name, place in steps:
        tell(name, state=RUNNING)
        started = time.monotonic()
        state, reason = _run(place, lambda key, value, name=name: tell(name, found={key: value}))
        tell(name, state=state, reason=reason, seconds=round(time.monotonic() - started, 1))
        if state != OK:
            gc.collect()
            if is_broken():
                return BROKEN
    return 0


def is_broken() -> bool:
    """Whether the device has stopped to answer; torch is imported where a step went wrong, and by steps themselves."""
    from tests.gpu import device

    return device.is_broken()


def _run(place: str, note: Note) -> tuple[str, str]:
    """State and reason."""
    module, _, function = place.partition(":")
    try:
        getattr(importlib.import_module(module), function)(note)
    except SkippedError as error:
        return SKIPPED, str(error)
    except WrongError as error:
        return WRONG, str(error)
    except Exception as error:
        traceback.print_exc()
        return FAILED, f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
    return OK, ""


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's."""
    return value.item() if hasattr(value, "item") else str(value)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
