"""When this process looks for garbage: not while it starts, and not once more when it ends.

Knows the garbage collector; refuses to know what is imported.
"""

from __future__ import annotations

import atexit
import gc
from typing import Any

START = 1_000_000
"""Objects that may be made before the first collection. Modules, their functions and their classes are some 860,000 of
them before a local model is loaded, and none of those is garbage: searching them time and again takes a sixth of a
run's start."""


def collect_after_start() -> None:
    """Put off the first collection until `START` objects are made; collect as before from then on.

    What is there at the end of the process is not searched either: the interpreter lets go of it, and the system takes
    its memory back.
    """
    atexit.register(gc.freeze)
    usual = gc.get_threshold()

    def first(phase: str, info: dict[str, Any]) -> None:
        gc.callbacks.remove(first)
        if gc.get_threshold()[0] == START:  # nobody has set another since
            gc.set_threshold(*usual)

    if usual[0] != START:
        gc.callbacks.append(first)
        gc.set_threshold(START, *usual[1:])
