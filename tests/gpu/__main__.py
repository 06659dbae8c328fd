"""The command line: everything that only a GPU can show, in at most eight minutes.

python -m tests.gpu --help
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.version import Version

from harness.engine import LOWEST
from tests.bench.page import write
from tests.gpu.page import goals_table, render
from tests.gpu.plan import GROUPS, LIMIT_S, TESTS, TESTS_SHARE, step_names
from tests.gpu.results import Results
from tests.gpu.running import REPO, Runner

PAGE = REPO / "docs" / "performance.md"
MARKER = "gpu check"
PACKAGES = ("torch", "transformers", "accelerate", "numpy", "pandas", "pyarrow", "pytest")
ALSO_NEEDED = ("pydantic", "tenacity")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps asked for; 1 where one of them did not end well."""
    options = _options(arguments)
    _check_versions()
    started = time.monotonic()
    results = Results(options.out / "results.json", _machine())
    gpu = results.found["machine"]["gpu"]
    print(gpu or "no GPU is visible to torch: the same steps at tiny sizes on the CPU", flush=True)
    if not gpu:
        # Models this small gain nothing from more threads, and on busy cores threads wait for each other.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    runner = Runner(results, options.out, started + options.seconds)
    tests = threading.Thread(target=runner.run_tests, args=(TESTS_SHARE * options.seconds,))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if TESTS in options.steps:
            tests.start()
        for group in GROUPS:
            runner.run_group(group, options.steps)
            if tests.ident is not None:
                # What is timed from here on has the machine to itself.
                tests.join()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        runner.stop()
    print(f"\n{goals_table(results.steps) if gpu else ''}\n".lstrip())
    print(f"{time.monotonic() - started:.0f} s; results in {options.out / 'results.json'}")
    if options.write:
        write(options.page, MARKER, render(results.found))
        if not gpu:
            print(f"{options.page.name} says that its figures are blank: there was no GPU")
    for name in results.failures:
        print(f"{name} did not end well: {results.steps[name]['state']} {results.steps[name]['reason']}")
    return 1 if results.failures else 0


def _machine() -> dict[str, Any]:
    """What is measured, asked of another process: CUDA is not to be started in this one."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"torch does not start: {done.stderr.strip().splitlines()[-1:]}")
    return {
        "gpu": done.stdout.strip() or None,
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _commit() -> str | None:
    asked = ["git", "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(asked, cwd=REPO, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _check_versions() -> None:
    for name, lowest in LOWEST.items():
        found = _version(name)
        if found is None or Version(found) < Version(lowest):
            raise SystemExit(f"{name} {found or 'is not installed'}: the engine needs {lowest} or newer")
    missing = [name for name in (*PACKAGES, *ALSO_NEEDED) if _version(name) is None]
    if missing:
        raise SystemExit(f"{', '.join(missing)} not installed: gpu-check needs {', '.join((*PACKAGES, *ALSO_NEEDED))}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description="See docs/performance.md.")
    parser.add_argument("--steps", type=_steps, default=step_names(), help="separated by commas; see tests/gpu/plan.py")
    parser.add_argument("--seconds", type=float, default=LIMIT_S, help="after which all ends")
    parser.add_argument("--out", type=Path, default=REPO / "data_out" / "gpu_check", help="folder of results")
    parser.add_argument("--write", action="store_true", help="write the results into the page")
    parser.add_argument("--page", type=Path, default=PAGE)
    return parser.parse_args(arguments)


def _steps(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    wrong = [name for name in names if name not in step_names()]
    if wrong:
        raise argparse.ArgumentTypeError(f"'{wrong[0]}' is none of {', '.join(step_names())}")
    return names


if __name__ == "__main__":
    sys.exit(main())
