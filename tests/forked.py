"""Programs that start in a twentieth of a second: forks of one process that has imported what they need.

A test that kills a run needs a process, and importing torch and transformers takes it four seconds. What comes of
`Forked` is a process of its own, a child of this one: signals reach it alone, the system tells how it ended, and it
ends as any interpreter does. Tests of how a program starts use `subprocess` itself.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import inspect
import json
import os
import random
import runpy
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
IMPORTED = (
    "harness.analysis.summary", "harness.cli", "harness.engine.local.engine", "harness.engine.local.opening",
    "harness.reporting.terminal", "harness.running.driver", "harness.running.group", "harness.running.inline",
    "harness.running.opening", "harness.running.race", "tasks.korquad", "tasks.nsmc",
)  # fmt: skip
MAY_BE_FORKED = {"jemalloc_bg_thd"}
"""Threads of pyarrow's allocator, which sees to forks itself."""
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
LONGEST = 2**20
"""Bytes of a request."""
SUBREAPER = 36
"""`PR_SET_CHILD_SUBREAPER`: processes whose parent ends become children of this one."""


class Forked(subprocess.Popen):
    """`subprocess.Popen` for `[sys.executable, "-m", MODULE, ...]`, with options that say where it runs and writes."""

    def __init__(self, command: list[str], *, start_new_session: bool = False, **options: Any) -> None:
        assert command[:2] == [sys.executable, "-m"]
        assert set(options) <= {"stdin", "stdout", "stderr", "text", "cwd", "env"}
        self._alone = start_new_session
        super().__init__([str(word) for word in command], **options)

    def _execute_child(self, *given: Any) -> None:
        names = list(inspect.signature(subprocess.Popen._execute_child).parameters)[1:]
        told = dict(zip(names, given, strict=True))
        request = {
            "words": told["args"][2:],
            "cwd": str(told["cwd"] or Path.cwd()),
            "env": dict(told["env"] if told["env"] is not None else os.environ),
            "alone": self._alone,
        }
        ends = [told["p2cread"], told["c2pwrite"], told["errwrite"]]
        self.pid = _server().fork(request, [number if end == -1 else end for number, end in enumerate(ends)])
        self._child_created = True
        self._close_pipe_fds(*(told[name] for name in PIPES))


def run(command: list[str], timeout: float | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of the same, with the text of both outputs; the caller looks at the status."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with Forked(command, **pipes, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


class _Server:
    """The process that is forked; it ends when this one does."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)  # a request is one message
        command = [sys.executable, "-m", "tests.forked", str(theirs.fileno())]
        nowhere = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, cwd=REPO, pass_fds=[theirs.fileno()], **nowhere)
        theirs.close()

    def fork(self, request: dict[str, Any], files: list[int]) -> int:
        """The id of a new child of this process."""
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        assert prctl(SUBREAPER, 1, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode()], files)
            return int(self._socket.recv(20))
        finally:
            prctl(SUBREAPER, 0, 0, 0, 0)


@cache
def _server() -> _Server:
    return _Server()


def _next(channel: socket.socket) -> list[str]:
    """Serve requests; returns in each of the processes that are asked for, with module and arguments."""
    while True:
        message, files, _, _ = socket.recv_fds(channel, LONGEST, 3)
        if not message:
            os._exit(0)
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            child = os.fork()
            if child == 0:
                break
            os.write(writing, str(child).encode())
            os._exit(0)
        os.waitpid(between, 0)  # its child is now one of the process that asked
        channel.send(os.read(reading, 20))
        for file in (reading, writing, *files):
            os.close(file)
    request = json.loads(message)
    if request["alone"]:
        os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in (reading, writing, *files):
        os.close(file)
    channel.close()
    _open_streams()
    mine = _python_path()
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path[:] = [request["cwd"], *_python_path(), *(place for place in sys.path[1:] if place not in mine)]
    random.seed()
    return request["words"]


def _open_streams() -> None:
    """Streams over the files of the new process, as an interpreter opens them: what they can do is found out then."""
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def _python_path() -> list[str]:
    return [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]


def _serve(number: int) -> None:
    gc.disable()
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    assert len(threads - MAY_BE_FORKED) == 1, f"a fork would lack the threads {threads}"
    words = _next(socket.socket(fileno=number))
    gc.enable()
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if sys.platform != "linux":
    Forked = subprocess.Popen  # type: ignore[assignment,misc]

if __name__ == "__main__":
    _serve(int(sys.argv[1]))
