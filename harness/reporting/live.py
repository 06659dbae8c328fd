"""The report of a run that goes on, served on this machine's loopback address; its page reloads itself.

Knows HTTP and when a page is out of date; refuses to know what stands on it. Nobody but this machine is answered: the
socket is bound to 127.0.0.1, and a request under another name is refused, so that no page of the web can reach it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from harness.core.errors import ConfigError, UserError
from harness.reporting.report.build import render
from harness.reporting.report.gathering import gather
from harness.results import manifest as manifests
from harness.results.damage import told_as_damage
from harness.results.store import RunStore

log = logging.getLogger(__name__)
HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
"""Hosts that a request may be addressed to."""
REST = 4.0
"""Times as long as a page took to make, the last one is served before another is made: the run has the machine."""
WAITING = (
    "<!DOCTYPE html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=3><title>Waiting</title>"
    "<p role=status>{}. This page tries again every 3 seconds."
)


@dataclass(frozen=True)
class State:
    """How far the runs are: pages of one state are the same."""

    key: str
    """Differs where anything has been added."""
    is_over: bool
    """Whether nothing will be added, as far as the run directories say."""


def state_of(run_dirs: Sequence[str]) -> State:
    """How far runs are, from their manifests and listings alone.

    Raises:
        RunDirError: not a run directory.
    """
    found = []
    for run_dir in run_dirs:
        store = RunStore(run_dir)
        manifest = manifests.read_manifest(store, "status", "sessions")
        found.append((str(manifest["status"]), len(store.part_ids()), len(manifest["sessions"])))
    key = ";".join(" ".join(map(str, one)) for one in found)
    return State(key, all(status == "complete" for status, _, _ in found))


def pages_of(run_dirs: Sequence[str], by: Sequence[str], seeds: str) -> Pages:
    """The pages of run directories; `by` and `seeds` as of `write_report`."""

    def make(state: State) -> str:
        with told_as_damage(run_dirs):
            return render(gather(run_dirs, by, seeds), state.key, state.is_over)

    return Pages(lambda: state_of(run_dirs), make)


class Pages:
    """The newest page, made again when the runs have moved on.

    Args:
        state: reads how far the runs are; cheap.
        make: the page of a state.
    """

    def __init__(self, state: Callable[[], State], make: Callable[[State], str]) -> None:
        self._state, self._make = state, make
        self._lock = threading.Lock()
        self._made: tuple[State, str] | None = None
        self._fresh_until = 0.0

    def newest(self) -> tuple[State, str]:
        """State and page; a page that was made a moment ago is served again though the runs went on.

        Raises:
            UserError: nothing can be shown yet.
        """
        with self._lock:
            made, state = self._made, self._due()
            if made is None or made[0] != state:
                start = time.monotonic()
                self._made = made = state, self._make(state)
                self._fresh_until = time.monotonic() + REST * (time.monotonic() - start)
            return made

    def seen(self) -> dict[str, Any]:
        """What the page asks for: the key of the state that `newest` would show, and whether it is the last."""
        state = self._due()
        return {"key": state.key, "over": state.is_over}

    def _due(self) -> State:
        """The runs' state, or that of the last page while it still rests."""
        state, made = self._state(), self._made
        rests = made is not None and not state.is_over and time.monotonic() < self._fresh_until
        return made[0] if made is not None and rests else state


def serve(pages: Pages, port: int) -> ThreadingHTTPServer:
    """A server that answers once `serve_forever` is called.

    Args:
        pages: what is served.
        port: 0 takes any that is free.

    Raises:
        ConfigError: the port is taken.
    """
    handler = type("Handler", (_Handler,), {"pages": pages})
    try:
        server = _Server((HOST, port), handler)
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"port {port} cannot be used ({why}); set --port to a free one, or to 0") from error
    # Known only now where any free one was asked for.
    handler.port = server.server_port  # type: ignore[attr-defined]
    return server


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that leaves is no error of the report."""
        log.debug("a request ended early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    pages: ClassVar[Pages]
    port: ClassVar[int]
    server_version, sys_version = "harness", ""

    def do_GET(self) -> None:
        """The page, or how far the runs are."""
        self._answer()

    def do_HEAD(self) -> None:
        """The same without a body."""
        self._answer()

    def _answer(self) -> None:
        name, _, port = (self.headers.get("Host") or "").rpartition(":")
        if name not in NAMES or port != str(self.port):
            self._send(HTTPStatus.FORBIDDEN, "text/plain", "this server answers to 127.0.0.1 only")
        elif self.path in ("/", "/state"):
            self._send(*self._found())
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", "only / is here")

    def _found(self) -> tuple[HTTPStatus, str, str]:
        """Status, kind and text of what was asked for."""
        try:
            if self.path == "/state":
                return HTTPStatus.OK, "application/json", json.dumps(self.pages.seen())
            return HTTPStatus.OK, "text/html", self.pages.newest()[1]
        except UserError as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, "text/html", WAITING.format(escape(str(error)))

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are no news."""
        log.debug(format, *args)
