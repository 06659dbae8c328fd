"""Ends this process when a unit hangs: inline there is nobody else who could.

A process of its own watches, because code that never gives the interpreter back would stop a thread too. It counts
seconds in which it runs itself, so that a terminal's Ctrl-Z and a sleeping laptop are no hang.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress

from harness.core.escaping import one_line
from harness.core.places import SOURCE
from harness.planning.units import WorkUnit
from harness.results.quarantine import Ending
from harness.results.store import RunStore
from harness.running.messages import note_name, read_note, write_note

_CHILD = """
import json, os, select, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
order, left, seen, rest = None, 0.0, None, b""
while True:
    if select.select([0], [], [], 0.5)[0]:
        data = os.read(0, 65536)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\\n")
        for line in lines:
            order, seen = json.loads(line), None
        left = order["limit_s"] if order else 0.0
    elif order is not None:
        left -= 0.5
        if left <= 0:
            from harness.running.watchdog import judge
            seen, left = judge(order, seen), order["limit_s"]
"""


class Watchdog:
    """Watches one unit at a time.

    Args:
        run_dir: where notes are.
    """

    def __init__(self, run_dir: str) -> None:
        self._run_dir = run_dir
        # Looking for packages (-S) would be two thirds of its start; it finds them where this process did.
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _CHILD],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(SOURCE), *sys.path]))},
        )

    def watch(self, unit: WorkUnit, limit_s: float, is_alone: bool) -> None:
        """Begin to count for a unit; what was watched before is forgotten.

        Args:
            unit: which is noted in the run directory.
            limit_s: seconds until it is taken to hang.
            is_alone: whether it is taken sample by sample: the limit is one for each then.
        """
        order = {"run_dir": self._run_dir, "process": os.getpid(), "unit": unit.id, "limit_s": limit_s}
        self._send({**order, "is_alone": is_alone, "words": unit.place})

    def rest(self) -> None:
        """Watch nothing."""
        self._send(None)

    def close(self) -> None:
        """End the watching process."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()

    def _send(self, order: dict[str, object] | None) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # whoever ended the watching process wants no watching
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()


def judge(order: dict[str, object], seen: list[str] | None) -> list[str] | None:
    """Called in the watching process when time is up: end the other one, unless it has gone on to another sample.

    Args:
        order: as `Watchdog.watch` sent it.
        seen: the sample that was tried when time was up before; None for the first time.

    Returns:
        The sample that is tried now, which gets its own time.
    """
    store, unit = RunStore(str(order["run_dir"])), str(order["unit"])
    note = read_note(store, unit)
    now = [note.sample or ""] if note is not None else None
    if order["is_alone"] and now != seen:
        return now
    with suppress(ProcessLookupError):
        os.kill(int(str(order["process"])), signal.SIGKILL)
    sample = note.sample if note is not None else None
    if note is not None:
        write_note(store, unit, sample, note.process, Ending.HUNG)
    what = f"sample {sample} by itself" if sample else f"unit {unit} ({order['words']})"
    sys.stderr.write(
        one_line(
            f"error: {what} did not end within {order['limit_s']:g} s (run.hang_after_s), so the run was ended; "
            f"committed work is kept, and {note_name(unit)} holds what was tried: run the same command again to go on"
        )
        + "\n"
    )
    sys.stderr.flush()
    os._exit(0)
