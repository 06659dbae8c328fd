"""The Python that slow tests run the GPU path with; failures of GPU tests are told at once."""

import os
import sys

import pytest

VARIABLE = "GPU_CHECK_PYTHON"


@pytest.fixture(scope="session")
def gpu_python():
    """The interpreter that `GPU_CHECK_PYTHON` names, such as one with the oldest versions; else this one."""
    return os.environ.get(VARIABLE, sys.executable)


class TellAtOnce:
    """Shows why a test failed when it fails: what is cut off later is told all the same."""

    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        """Each phase of each test, in the process that reports."""
        if report.failed:
            reporter = self.config.pluginmanager.get_plugin("terminalreporter")
            reporter.ensure_newline()
            reporter.write_line(f"{report.nodeid} failed in {report.when}:\n{report.longreprtext}")


def pytest_configure(config):
    """Only where the terminal is: processes of xdist have none."""
    if config.option.markexpr == "gpu" and not hasattr(config, "workerinput"):
        config.pluginmanager.register(TellAtOnce(config))
