"""All of `tests.gpu` works on a machine without Ray, OmegaConf and most of what the project installs."""

import pkgutil
import subprocess
import sys

import pytest

import tests.gpu
from tests.bare import ABSENT, bare_environment
from tests.conftest import REPO


def bare_python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, env=bare_environment(), check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("package", [ABSENT[0], ABSENT[-1]])
def test_a_bare_machine_lacks_what_it_should(package):
    status, output = bare_python(f"import {package}")
    assert status != 0
    assert f"import of {package} halted" in output


def test_every_module_is_imported_and_the_gpu_tests_are_collected_there():
    names = [m.name for m in pkgutil.walk_packages(tests.gpu.__path__, "tests.gpu.") if "__main__" not in m.name]
    collect = [
        "import pytest, sys",
        "options = ['--collect-only', '-q', '-p', 'no:hypothesispytest', '-m', 'gpu', 'tests/gpu']",
        "status = pytest.main(options)",
        "raise SystemExit(status or 'hypothesis' in sys.modules)",
    ]
    status, output = bare_python("\n".join([*(f"import {name}" for name in names), *collect]))
    assert status == 0, output
    assert "test_every_kernel_passes_the_check_of_its_numbers" in output
