"""What Ray's errors say of a process that is gone, and of what its code raised.

Knows the words and classes of Ray's errors; refuses to know what is done about them.
"""

from __future__ import annotations

import re

from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError

from harness.core.addresses import redacted
from harness.core.errors import UserError
from harness.core.escaping import one_line
from harness.results.quarantine import Ending

NODE_WORDS = ("its node has died", "actor's node was")
"""In what Ray says of an actor whose node went away."""


def cause_of(error: Exception) -> str:
    """Why a process is gone, in one line."""
    return memory_words(str(error)) if isinstance(error, OutOfMemoryError) else one_line(redacted(str(error)), 300)


def memory_words(text: str) -> str:
    """What Ray's memory monitor says of a process that it ended, in one line with what is missing.

    Args:
        text: of Ray's `OutOfMemoryError`; pages.
    """
    words = "Ray's memory monitor ended it"
    over = re.search(r"Memory usage (\d+)B exceeded threshold of (\d+)B", text)
    own = re.search(r"actual memory used=([\d.]+)GB", text)
    if over is None:
        return words
    used, allowed = (int(n) / 2**30 for n in over.groups())
    came_to = f" when this process had come to {own[1]} GiB" if own else ""
    missing = max(0.01, used - allowed)
    return (
        f"{words}: the node's processes held {used:.2f} GiB{came_to}, but may hold {allowed:.2f} GiB "
        f"(RAY_memory_usage_threshold), so at least {missing:.2f} GiB are missing; free memory there, "
        "lower cluster.replicas, or use a node with more"
    )


def ending_of(error: RayError) -> Ending:
    """What ended a replica, as far as Ray tells."""
    if isinstance(error, OutOfMemoryError):
        return Ending.MEMORY
    if isinstance(error, NodeDiedError) or any(words in str(error) for words in NODE_WORDS):
        return Ending.NODE
    return Ending.DIED


def original_of(error: RayTaskError) -> Exception:
    """What the actor's code raised, without Ray's wrapping."""
    cause = error.cause
    if isinstance(cause, UserError):
        return type(cause)(*cause.args)
    return cause if isinstance(cause, Exception) else error
