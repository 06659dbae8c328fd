"""What W&B costs a run whose server fails: one grid with W&B off, then with servers that hang,
answer 500 or refuse the key, and with a healthy one; wall time of whole commands.

    make bench-tracking
    python tests/bench_tracking.py hang 500      # only these, and the run without W&B

The servers are on loopback. The grid takes four minutes or so; half an hour in all. Runs without W&B stand
first, last and after every second server; prints seconds and the ratio to the mean of the one before and the one
after, and whether the figures of all cells are the same.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fake_wandb_server import FakeWandb, serving

GRID = ["cluster.address=inline", "demos.policy=per_sample", "grid.seeds=[1,2,3,4,5,6]", "grid.k=[8,16,32]"]
FAULTS = ("hang", "500", "refuse", "healthy")


def run(out: str, name: str, *overrides: str, **environment: str) -> tuple[float, pd.DataFrame, str]:
    """Seconds of one command, the figures of its cells, and what it said of W&B."""
    command = [sys.executable, "-m", "harness", "run", "configs/demo.yaml", f"name={name}", f"out={out}", *GRID]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, *overrides], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - began
    said = "; ".join(line for line in done.stderr.splitlines() if "W&B" in line or "wandb sync" in line)
    return seconds, pd.read_parquet(f"{out}/{name}/cells.parquet"), re.sub(r"\S*/wandb/", ".../wandb/", said)


def with_server(out: str, fault: str) -> tuple[float, pd.DataFrame, str]:
    """`run` against a server that fails in one way, or is healthy."""
    with serving(FakeWandb(None if fault == "healthy" else fault)) as server:
        return run(out, fault, "wandb.mode=online", WANDB_BASE_URL=server.url, WANDB_API_KEY="0" * 40, HOME=out)


def batched(items: list[str], size: int) -> list[list[str]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def main() -> None:
    faults = sys.argv[1:] or list(FAULTS)
    with tempfile.TemporaryDirectory() as out:
        run(out, "warm-up", "task.limit=20")
        before, cells, _ = run(out, "disabled")
        print(f"without W&B: {before:.1f} s, {len(cells)} cells", flush=True)
        for pair in batched(faults, 2):
            runs = {fault: with_server(out, fault) for fault in pair}
            after, _, _ = run(out, f"disabled-after-{pair[-1]}")
            for fault, (seconds, found, said) in runs.items():
                same = "same figures" if found.equals(cells) else "FIGURES DIFFER"
                ratio = seconds / ((before + after) / 2) - 1
                print(f"{fault}: {seconds:.1f} s, {ratio:+.1%}, {same}: {said}", flush=True)
            print(f"without W&B: {after:.1f} s", flush=True)
            before = after


if __name__ == "__main__":
    main()
