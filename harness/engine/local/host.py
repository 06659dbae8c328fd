"""Settings of the interpreter that feeds a GPU: what else runs on the host must not hold its launches up.

Knows threads and the garbage collector; refuses to know models.
"""

from __future__ import annotations

import gc
import sys

SWITCH_S = 1e-4
"""A thread that wants to go on waits so long for another that only computes. Each launch that gives the interpreter
up for a moment, as every copy from pinned memory does, else waits for up to 5 ms beside rendering and judging."""

COLLECT_AFTER = 50_000
"""Objects that are made between two collections: some units' worth."""


def let_go() -> None:
    """Before a model is loaded: what an earlier one left may be collected again."""
    gc.unfreeze()


def favour_launches() -> None:
    """When a model is loaded: threads take turns often, and what is there by now is left out of garbage collections.

    Every unit makes some ten thousand lists. Without this the collector walks through all modules and the model's own
    objects time and again, and no thread runs meanwhile.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(COLLECT_AFTER)
    gc.collect()
    gc.freeze()
