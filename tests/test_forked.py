"""Programs that start as forks are processes as any: whose, where, with what, and how they end."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests import forked
from tests.forked import Forked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they are no forks")
PROBE = """
import os, sys, time
print(os.getcwd(), os.environ.get("PROBE"), sys.argv[1:], __name__, sep="|", flush=True)
if sys.argv[1] == "wait":
    time.sleep(100)
print("said", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "probe.py").write_text(PROBE, encoding="utf-8")
    return folder


def test_it_runs_where_and_with_what_it_is_told(folder):
    done = forked.run([sys.executable, "-m", "probe", "7"], cwd=folder, env={"PROBE": "mine"})
    assert (done.returncode, done.stderr) == (7, "said\n")
    assert done.stdout == f"{folder}|mine|['7']|__main__\n"
    there = forked.run([sys.executable, "-m", "probe", "0"], env={**os.environ, "PYTHONPATH": str(folder)})
    assert (there.returncode, there.stdout.split("|")[0]) == (0, os.getcwd())
    assert "No module named probe" in forked.run([sys.executable, "-m", "probe", "0"]).stderr


@pytest.mark.parametrize("alone", [False, True])
def test_it_is_a_child_of_this_process_that_a_signal_ends(folder, alone):
    command = [sys.executable, "-m", "probe", "wait"]
    one, other = (Forked(command, stdout=subprocess.PIPE, cwd=folder, start_new_session=alone) for _ in range(2))
    assert one.stdout.readline() and other.stdout.readline()
    assert psutil.Process(one.pid).ppid() == os.getpid()
    assert (os.getsid(one.pid) == one.pid) is alone
    one.kill()
    assert one.wait(30) == -signal.SIGKILL
    assert other.poll() is None
    other.send_signal(signal.SIGTERM)
    assert other.wait(30) == -signal.SIGTERM
    assert not psutil.pid_exists(one.pid)
    one.stdout.close()
    other.stdout.close()
