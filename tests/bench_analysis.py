"""What `compare`, `calibrate` and `report` cost on a run of 10,000 samples x 50 cells.

    make bench-analysis

Makes such a run of classes from random numbers, then measures each command as a process: wall
and processor time, highest resident memory, and the size of the report.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.simulated_runs import classified_run

SAMPLES, TEMPLATES, KS, SEEDS = 10_000, 5, (1, 4), (1, 2, 3, 4, 5)


def measured(*command: str) -> tuple[float, float, float]:
    """Seconds, those of processors, and highest resident memory in GB of `harness COMMAND`."""
    began = time.perf_counter()
    process = os.fork()
    if process == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.execv(sys.executable, [sys.executable, "-m", "harness", *command])
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"harness {' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    shares = {(f"template_{t}", k): 0.7 + 0.02 * t for t in range(TEMPLATES) for k in KS}
    texts = [f"영화 {i}번에 대한 감상입니다. " * (1 + i % 9) for i in range(SAMPLES)]
    with tempfile.TemporaryDirectory() as folder:
        run_dir = classified_run(f"{folder}/simulated", texts, shares, SEEDS)
        for command in (
            ["compare", run_dir],
            ["compare", run_dir, "--by", "template,k"],
            ["calibrate", run_dir],
            ["report", run_dir],
        ):
            seconds, processor, memory = measured(*command)
            name = " ".join(part for part in command if part != run_dir)
            print(f"{name}: {seconds:.1f} s ({processor:.1f} s of processors), {memory:.2f} GB", flush=True)
        print(f"report.html: {Path(run_dir, 'report.html').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
