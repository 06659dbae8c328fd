"""Runs grids on a simulated cluster while nodes, replicas and the driver are killed; `make chaos`.

A head and three worker nodes with two pretended GPUs each. Every round is one run of 300 units or more, during which
at random times a node is killed, a node is added, a replica is killed and the driver, a process of its own, is killed
and started again. In the end its records must be those of a quiet run, no part may have been written twice, and no
more units may have been begun again than were in flight when something was killed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil

from harness import load_records
from harness.results.status import State, read_status
from harness.running.pipeline import UNITS_IN_FLIGHT
from tests.distributed.simulated import N_PROMPTS, N_UNITS, SimulatedCluster, start_driver

UNIT_SECONDS = "0.2"
GPUS, NODES = 2, 3
FAULTS = ("kill a node", "add a node", "kill a replica", "kill the driver")
STATES = (State.RUNNING, State.SILENT, State.COMPLETE)
"""What `harness status` may say; a killed driver is silent until the next one writes."""
BEFORE_THE_FIRST = 0.2
"""This share of the faults comes before the first part, while Ray and replicas start."""
START_SECONDS = 15.0
ROUND_SECONDS = 300.0


@dataclass
class Fault:
    name: str
    after_parts: int
    after_s: float


@dataclass
class Round:
    """What happened in a round."""

    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    begun_again: int = 0
    allowed: int = 0
    """Most units that could be in flight where something was killed."""


class Chaos:
    """A cluster with a journal of begun units, and the records of a quiet run."""

    def __init__(self, cluster: SimulatedCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.journal = folder / "journal"
        self.nodes = [cluster.add(num_gpus=GPUS) for _ in range(NODES)]
        started = time.monotonic()
        with self._driver("quiet") as driver:
            _, errors = driver.communicate(timeout=ROUND_SECONDS)
        assert driver.returncode == 0, errors
        self.quiet_seconds = time.monotonic() - started
        self.quiet = load_records(str(folder / "quiet"))
        assert len(self.parts("quiet")) == N_UNITS

    @contextmanager
    def _driver(self, name: str) -> Iterator[subprocess.Popen[str]]:
        driver = start_driver(self.cluster.address, self.folder, name)
        try:
            yield driver
        finally:
            driver.kill()
            driver.wait()

    def parts(self, name: str) -> dict[str, int]:
        """File of a part to the time of its last change."""
        return {part.name: part.stat().st_mtime_ns for part in (self.folder / name).glob("parts/*.parquet")}

    def round(self, name: str, draws: random.Random) -> Round:
        """One run with all faults.

        Raises:
            AssertionError: something was lost, done twice, or took too long.
        """
        told = Round()
        self.journal.write_text("")
        faults = [_draw(fault, draws) for fault in draws.sample(FAULTS, len(FAULTS))]
        seen: dict[str, int] = {}
        started = time.monotonic()
        while faults or not told.seconds:
            with self._driver(name) as driver:
                if self._watch(name, driver, faults, seen, told, draws, started):
                    told.seconds = time.monotonic() - started
        self._judge(name, seen, told)
        return told

    def _watch(
        self,
        name: str,
        driver: subprocess.Popen[str],
        faults: list[Fault],
        seen: dict[str, int],
        told: Round,
        draws: random.Random,
        started: float,
    ) -> bool:
        """Cause what is due until the run has ended (true) or the driver was killed (false)."""
        while True:
            passed, parts = time.monotonic() - started, self.parts(name)
            for fault in [f for f in faults if f.after_s <= passed and f.after_parts <= len(parts)]:
                if not self._cause(fault, driver, told, draws):
                    continue
                faults.remove(fault)
                told.faults.append(f"{fault.name} at {len(parts)} parts, {passed:.0f} s")
                seen |= {part: changed for part, changed in parts.items() if part not in seen}
                if driver.returncode is not None:
                    return False
            if (self.folder / name / "manifest.json").is_file():
                status = read_status(str(self.folder / name))
                assert status.units_done <= N_UNITS and status.state in STATES, status
            if driver.poll() is not None:
                _, errors = driver.communicate()
                assert driver.returncode == 0 and not faults, f"{told}, {faults} left: {errors}"
                return True
            assert passed < ROUND_SECONDS, f"not done after {passed:.0f} s: {told}\n{self.log(name)}"
            time.sleep(0.05)

    def _cause(self, fault: Fault, driver: subprocess.Popen[str], told: Round, draws: random.Random) -> bool:
        """Whether the fault could be caused: a replica must be there to be killed."""
        replicas = self.cluster.replicas()
        if fault.name == "kill the driver":
            told.allowed += UNITS_IN_FLIGHT * len(replicas)
            driver.kill()
            driver.wait()
        elif fault.name == "kill a node":
            told.allowed += UNITS_IN_FLIGHT * GPUS
            node = draws.choice(self.nodes)
            self.nodes.remove(node)
            self.cluster.kill(node)
        elif fault.name == "add a node":
            self.nodes.append(self.cluster.add(num_gpus=GPUS))
        elif replicas:
            told.allowed += UNITS_IN_FLIGHT
            try:
                draws.choice(replicas).send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                return False
        else:
            return False
        return True

    def _judge(self, name: str, seen: dict[str, int], told: Round) -> None:
        pd.testing.assert_frame_equal(load_records(str(self.folder / name)), self.quiet)
        parts = self.parts(name)
        assert set(parts) == set(self.parts("quiet")), "other units"
        assert {part: parts[part] for part in seen} == seen, "a part was written again"
        begun = Counter(line.split()[0] for line in self.journal.read_text().splitlines())
        assert len(begun) == N_PROMPTS
        told.begun_again = math.ceil((begun.total() - N_PROMPTS) * N_UNITS / N_PROMPTS)
        assert told.begun_again <= told.allowed, f"more units than were in flight were begun again: {told}"
        manifest = json.loads((self.folder / name / "manifest.json").read_text())
        assert manifest["status"] == "complete" and len(manifest["sessions"]) >= 1

    def log(self, name: str) -> str:
        """What the drivers wrote, without the lines of single units."""
        lines = (self.folder / name / "run.log").read_text().splitlines()
        return "\n".join(line for line in lines if '{"unit"' not in line)


def _draw(name: str, draws: random.Random) -> Fault:
    if draws.random() < BEFORE_THE_FIRST:
        return Fault(name, 0, draws.uniform(0, START_SECONDS))
    return Fault(name, draws.randrange(1, int(0.9 * N_UNITS)), 0.0)


@contextmanager
def chaos(folder: Path) -> Iterator[Chaos]:
    """A cluster that has done its quiet run."""
    environment = {"FAKE_SECONDS": UNIT_SECONDS, "FAKE_JOURNAL": str(folder / "journal")}
    with SimulatedCluster(environment=environment) as cluster:
        yield Chaos(cluster, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="of the first round; each further one takes the next")
    arguments = parser.parse_args()
    first = random.randrange(10**6) if arguments.seed is None else arguments.seed
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, chaos(Path(folder)) as here:
        print(f"quiet run: {here.quiet_seconds:.0f} s, {N_UNITS} units", flush=True)
        for seed in range(first, first + arguments.rounds):
            try:
                told = here.round(f"round-{seed}", random.Random(seed))
            except AssertionError:
                print(f"seed {seed} failed; its log:\n{here.log(f'round-{seed}')}", flush=True)
                raise
            print(
                f"seed {seed}: {told.seconds:.0f} s, {told.begun_again} units begun again (at most {told.allowed}); "
                + ", ".join(told.faults),
                flush=True,
            )


if __name__ == "__main__":
    main()
