"""What a verb imports, which is what it takes to start: kept by names, since seconds depend on the machine."""

import subprocess
import sys

import pytest

from tests.analysis.test_comparing import write_run
from tests.analysis.test_recommendation import cell

HEAVY = ("numpy", "pandas", "pyarrow", "scipy.special", "sklearn", "torch", "transformers", "ray", "omegaconf", "wandb")


def imported_by(*words):
    """Which of `HEAVY` a command has imported when it is over."""
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print(*[n for n in {HEAVY} if n in sys.modules], file=sys.stderr))\n"
        f"sys.argv = ['harness', *{words}]\n"
        "from harness.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("--version",)])
def test_help_waits_for_nothing(words):
    assert imported_by(*words) == set()


def test_showing_a_run_needs_neither_models_nor_statistics(tmp_path):
    run_dir = write_run(tmp_path / "run", cell("a", 90, 60) + cell("b", 80, 60))
    assert imported_by("show", run_dir) == {"numpy", "pandas", "pyarrow"}
