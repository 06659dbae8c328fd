"""Runs groups of steps in processes of their own: a step that hangs or dies costs only itself."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.gpu.plan import TESTS, Group, Step
from tests.gpu.results import DIED, FAILED, NO_TIME, OK, RUNNING, SKIPPED, TOO_LONG, Results

REPO = Path(__file__).resolve().parents[2]
START_S = 120
"""Most seconds before a process begins its first step: torch and transformers are imported."""
LEAST_S = 5
"""With less time left no step is begun."""
POLL_S = 0.1
CORES_PER_TEST_PROCESS = 2
MOST_TEST_PROCESSES = 8
OUTCOME = re.compile(r"\b(PASSED|FAILED|ERROR|SKIPPED)\b")
TEST = re.compile(r"\S+::\S.*?(?= (?:PASSED|FAILED|ERROR|SKIPPED)\b|$)")


@dataclass
class Runner:
    """Starts processes until a time is over.

    Attributes:
        out: folder of logs.
        ends: when all is over, by `time.monotonic`.
    """

    results: Results
    out: Path
    ends: float
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run_group(self, group: Group, names: Sequence[str]) -> None:
        """Run the named steps of a group, in as many processes as it takes."""
        waiting = []
        for step in group.steps:
            if step.name in names and step.needs and importlib.util.find_spec(step.needs) is None:
                self._end(step.name, state=SKIPPED, reason=f"{step.needs} is not installed", seconds=0)
            elif step.name in names:
                waiting.append(step)
        self._log(group.name).unlink(missing_ok=True)
        while waiting and self._left() > LEAST_S:
            waiting = self._in_one_process(group.name, waiting)
        for step in waiting:
            self.results.update(step.name, state=NO_TIME, reason="", seconds=0)
            print(f"-- {step.name}: {NO_TIME}", flush=True)

    def run_tests(self, seconds: float) -> None:
        """The project's GPU tests, several at a time where pytest can.

        Args:
            seconds: most that they may take.
        """
        self.results.update(TESTS, state=RUNNING)
        log = self.out / "pytest.txt"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "gpu",
            "tests/gpu",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            "-v",
        ]
        processes = (os.cpu_count() or 1) // CORES_PER_TEST_PROCESS
        if importlib.util.find_spec("xdist") and processes > 1:
            # One at a time to whoever is free: the longest come first.
            command += ["-n", str(min(MOST_TEST_PROCESSES, processes)), "--maxschedchunk", "1"]
        started = time.monotonic()
        with log.open("w", encoding="utf-8") as output:
            process = self._start(command, output)
            try:
                status: int | None = process.wait(min(seconds, self._left()))
            except subprocess.TimeoutExpired:
                _kill(process)
                status = None
        words = log.read_text(encoding="utf-8").strip().splitlines()
        summary = words[-1].strip("= ") if words else ""
        taken = round(time.monotonic() - started, 1)
        outcomes = read_outcomes(words)
        self.results.update(TESTS, found=outcomes)
        if status is None:
            state, summary = TOO_LONG, f"over {taken:.0f} s: {_counted(outcomes)}"
        elif status:
            state = FAILED
        else:
            state = OK if "passed" in summary else SKIPPED
        if status != 0 and outcomes["failed"]:
            summary += f"; failed: {', '.join(name.rsplit('::', 1)[1] for name in outcomes['failed'])}"
        self._end(TESTS, state=state, reason=summary, seconds=taken)

    def _in_one_process(self, group: str, steps: list[Step]) -> list[Step]:
        """Run steps until the process ends; those that are still to be run."""
        events = self.out / f"{group}.events"
        events.unlink(missing_ok=True)
        waiting = list(steps)
        with self._log(group).open("a", encoding="utf-8") as output:
            pairs = json.dumps([(step.name, step.function) for step in steps])
            process = self._start([sys.executable, "-m", "tests.gpu.child", str(events), pairs], output)
            read, began, most, running, late = 0, time.monotonic(), START_S, False, False
            while waiting:
                alive = process.poll() is None
                lines, read = _new_lines(events, read)
                for event in lines:
                    name = event.pop("step")
                    running = event.get("state", RUNNING) == RUNNING
                    if not running:
                        self._end(name, **event)
                        waiting.pop(0)
                        continue
                    self.results.update(name, **event)
                    if "state" in event:
                        began, most = time.monotonic(), waiting[0].seconds
                if not alive and not lines:
                    break
                over = time.monotonic() - began
                late = over > most or self._left() <= 0
                if late:
                    _kill(process)
                    break
                time.sleep(POLL_S)
            status = _ended(process)
        if waiting and (running or len(waiting) == len(steps)):
            # The step that ran, or where none began the first: the next process goes on behind it.
            over = round(time.monotonic() - began, 1)
            reason = f"over {over:.0f} s" if late else f"exit status {status}; see {self._log(group).name}"
            self._end(waiting.pop(0).name, state=TOO_LONG if late else DIED, reason=reason, seconds=over)
        return waiting

    def _end(self, name: str, **entry: Any) -> None:
        self.results.update(name, **entry)
        reason = f" ({entry['reason']})" if entry["reason"] else ""
        print(f"-- {name}: {entry['state']}{reason}, {entry['seconds']} s", flush=True)

    def stop(self) -> None:
        """End what still runs."""
        for process in self._processes:
            if process.poll() is None:
                _kill(process)

    def _start(self, command: list[str], output: Any) -> subprocess.Popen[bytes]:
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONUNBUFFERED": "1"}
        environment = {**os.environ, **quiet}
        process = subprocess.Popen(
            command, cwd=REPO, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._processes.append(process)
        return process

    def _log(self, group: str) -> Path:
        return self.out / f"{group}.log"

    def _left(self) -> float:
        return self.ends - time.monotonic()


def read_outcomes(lines: Sequence[str]) -> dict[str, list[str]]:
    """The tests that a log of `pytest -v` tells the end of, by outcome; that of a run which was cut off as well."""
    ended: dict[str, str] = {}
    for line in lines:
        outcome, test = OUTCOME.search(line), TEST.search(line)
        if outcome and test:
            ended[test[0].strip()] = "failed" if outcome[0] in ("FAILED", "ERROR") else outcome[0].lower()
    return {
        kind: [name for name, outcome in ended.items() if outcome == kind] for kind in ("passed", "failed", "skipped")
    }


def _counted(outcomes: dict[str, list[str]]) -> str:
    return ", ".join(f"{len(names)} {kind}" for kind, names in outcomes.items() if names) or "none ended"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ended(process: subprocess.Popen[bytes]) -> int:
    """The exit status of a process that has done its work; one that does not end is killed."""
    try:
        return process.wait(20)
    except subprocess.TimeoutExpired:
        _kill(process)
        return process.returncode


def _new_lines(file: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """Whole lines of a file behind a place, and the place behind them."""
    if not file.is_file():
        return [], start
    with file.open("rb") as stream:
        stream.seek(start)
        data = stream.read()
    whole = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], start + len(whole)
