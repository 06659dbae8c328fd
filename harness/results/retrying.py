"""Patience with storage that fails for a while.

Knows which errors pass by themselves and how long to wait for that; refuses to know what is stored.
"""

from __future__ import annotations

import errno
import logging
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from harness.core.errors import RunDirError, StorageError
from harness.core.escaping import one_line

log = logging.getLogger(__name__)
T = TypeVar("T")

JVM_ERRNO = 255
"""What libhdfs sets for any exception of the Java virtual machine."""
TRANSIENT_ERRNOS = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EINTR,
        errno.ENFILE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENOTCONN, errno.EPIPE,
        errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, JVM_ERRNO,
    }
)  # fmt: skip
NO_ROOM_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
TRANSIENT_WORDS = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|THROTTLING|REQUEST_TIMEOUT)"
    r"|AWS Error UNKNOWN \(HTTP status (408|429|5\d\d)\)"
    r"|cloud::Status\((UNAVAILABLE|DEADLINE_EXCEEDED|INTERNAL|ABORTED|RESOURCE_EXHAUSTED|UNKNOWN):"
)
"""Object stores give no error number. Sources: `S3ErrorToString` and `ErrorToStatus` in Arrow's
`s3_internal.h`; the status codes of google-cloud-cpp, as `ToArrowStatus` in Arrow's
`gcsfs_internal.cc` prints them."""
CAUSE_LENGTH = 300
READING = ("looked up", "listed", "read")


@dataclass(frozen=True)
class Patience:
    """How long storage may fail, and how to wait meanwhile."""

    total_s: float = 30.0
    """Seconds after the first try from which on no other begins."""
    first_s: float = 0.5
    """The first wait; each further one is twice as long."""
    longest_s: float = 8.0
    wait: Callable[[float], None] = time.sleep
    """Waits for so many seconds."""
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random
    """A number from 0 to 1, so that replicas that failed together do not come back together."""

    def pause_s(self, tries: int) -> float:
        """Seconds to wait after so many tries: half of it fixed, half drawn."""
        return min(self.longest_s, self.first_s * 2.0 ** (tries - 1)) * (0.5 + 0.5 * self.draw())


PATIENCE = Patience()


def is_transient(error: Exception) -> bool:
    """Whether the same operation may succeed later without anybody's doing."""
    number = getattr(error, "errno", None)
    if number is not None:
        return number in TRANSIENT_ERRNOS
    return TRANSIENT_WORDS.search(str(error)) is not None


def patiently(subject: str, verb: str, action: Callable[[], T], patience: Patience = PATIENCE) -> T:
    """Do one operation on storage; when it fails for a while, wait and try again.

    Args:
        subject: the file or folder, as messages name it.
        verb: what is done to it: `written`, `read`, `listed`, ...
        action: the operation; trying it twice must be harmless.
        patience: how long to try.

    Raises:
        FileNotFoundError: as the action raised it.
        RunDirError: an error that does not pass by itself: no room, no right, no such bucket.
        StorageError: still failing when patience ends.
    """
    started, tries = patience.clock(), 0
    while True:
        try:
            return action()
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            tries += 1
            cause = one_line(str(error), CAUSE_LENGTH)
            if not is_transient(error):
                raise RunDirError(f"'{subject}' cannot be {verb}: {cause}; {_remedy(error, verb)}") from None
            failing_s, pause_s = patience.clock() - started, patience.pause_s(tries)
            if failing_s + pause_s > patience.total_s:
                raise StorageError(
                    f"'{subject}' cannot be {verb}: the storage failed {tries} times in {failing_s:.0f} s, "
                    f"at last with: {cause}; committed work is kept, run the same command again when it answers"
                ) from None
            log.warning("'%s' was not %s (%s); trying again in %.1f s", subject, verb, cause, pause_s)
        patience.wait(pause_s)


def _remedy(error: Exception, verb: str) -> str:
    number = getattr(error, "errno", None)
    if number in NO_ROOM_ERRNOS:
        return (
            "the disk or quota is full and nothing half-written was left; "
            "free space there and run the same command again, it goes on where it stopped"
        )
    if number is not None and verb in READING:
        return "expected a file or folder that you may read; give yourself the right, name another or set out=..."
    if number is not None:
        return "set out=... to a folder or storage you may write"
    return "check the address, the credentials and what they allow, or set another out=..."
