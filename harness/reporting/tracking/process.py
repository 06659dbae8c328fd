"""The process that holds wandb, so that nothing of it can stop, slow or colour the driver.

`harness.reporting.tracking.process_tracker` starts it and sends one JSON document per line; what the driver should know
comes back the same way. All that is logged goes into wandb's log file on disk first, which needs
no network. In mode `online` wandb's own `sync` runs beside it and uploads the file while it grows;
a server that is down, slow or hostile can only ever harm that upload.
Refuses to know how figures are computed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

LIVE, AT_THE_END = ("beta", "sync", "--live"), ("sync", "--include-synced")
FLUSH_S = 2.0
"""How often the log file grows, and so how fresh the upload is."""
RUN_PAGE = re.compile(r"View run .* at (https?://\S+)")
REFUSED = re.compile(r"error 40[13]\b")
"""The server knows the key and does not want it."""
LOSSES = ("file transfer: upload", "filestream:", "runfiles:", "sender: failed")
"""How messages of wandb's upload log begin when something did not arrive."""


class Say(Protocol):
    """Tells the driver something."""

    def __call__(self, kind: str, **facts: Any) -> None:
        """Say what kind of event it is, and its facts."""


class Upload:
    """wandb's `sync` of one log file, watched by a thread.

    Args:
        folder: the run's folder, with the log file in it.
        opening: the driver's first message.
        say: tells the driver the address of the run, and the first trouble.
    """

    def __init__(self, folder: Path, opening: Mapping[str, Any], say: Say) -> None:
        self._log = next(folder.glob("*.wandb"))
        self._wandb_dir = folder.parent
        self._connect_s, self._unreached_s = float(opening["connect_s"]), float(opening["unreached_s"])
        self._say = say
        self._url: str | None = None
        self._errors: list[str] = []
        self._last_line = ""
        self._closing: float | None = None
        self._upload_s = 0.0
        self._start(LIVE)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def finish(self, upload_s: float) -> bool:
        """Wait for the rest; where no server has answered yet `unreached_s` at most, and not at all
        once it has been silent for `connect_s`.

        An upload that ended before it reached a server is tried once more, from the whole file,
        but for one whose key was refused.

        Returns:
            Whether everything has arrived, as far as wandb knows.
        """
        self._upload_s, self._closing = upload_s, time.monotonic()
        self._thread.join()
        if self._process.returncode is not None and self._url is None and not any(map(REFUSED.search, self._errors)):
            self._errors.clear()
            self._start(AT_THE_END)
            self._watch()
        arrived = self._arrived()
        if not arrived:
            self._process.kill()
            # Left in place, it would make a later `wandb sync` pass the run over.
            self._marker.unlink(missing_ok=True)
        return arrived

    @property
    def _marker(self) -> Path:
        return self._log.with_suffix(".wandb.synced")

    def _start(self, arguments: tuple[str, ...]) -> None:
        self._began, self._began_at = time.monotonic(), time.time()
        self._output = self._wandb_dir / "upload.log"
        self._read = self._output.stat().st_size if self._output.exists() else 0
        # The service of this process belongs to the log; the upload starts its own.
        environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "wandb", *arguments, str(self._log)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
            )

    def _watch(self) -> None:
        """Until the upload ends or has had its time."""
        while self._process.poll() is None and not self._overdue():
            self._look()
            if self._url is None and time.monotonic() - self._began > self._connect_s:
                self._trouble(f"no answer for {self._connect_s:.0f} s")
            time.sleep(0.1)
        self._look()
        self._errors += self._losses()
        if self._process.poll() is None:
            silent = f"no answer for {time.monotonic() - self._began:.0f} s"
            self._errors.append(f"upload not done {self._upload_s:.0f} s after the end" if self._url else silent)
        elif not self._marker.exists():
            self._errors.append(f"the upload ended with status {self._process.returncode}: {self._last_line}")
        if self._errors:
            self._trouble(self._errors[0])

    def _overdue(self) -> bool:
        if self._closing is None:
            return False
        now = time.monotonic()
        if self._url is None and (now - self._closing > self._unreached_s or now - self._began > self._connect_s):
            return True
        return now - self._closing > self._upload_s

    def _look(self) -> None:
        with self._output.open("rb") as output:
            output.seek(self._read)
            text = output.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self._last_line = line
            page = RUN_PAGE.search(line)
            if page and self._url is None:
                self._url = page[1]
                self._say("online", url=self._url)
            if line.startswith(("wandb: ERROR ", "panic: ")):
                self._errors.append(line.removeprefix("wandb: ERROR "))
                self._trouble(self._errors[0])

    def _losses(self) -> list[str]:
        """What wandb's own log of the upload says was refused, which its output keeps to itself."""
        found = []
        for path in sorted(self._wandb_dir.glob("logs/debug-sync.*.log")):
            if path.stat().st_mtime < self._began_at:
                continue
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                entry = json.loads(line) if line.startswith("{") else {}
                if str(entry.get("level", "")).startswith("ERROR") and str(entry.get("msg", "")).startswith(LOSSES):
                    found.append(str(entry["msg"]))
        return found

    def _trouble(self, reason: str) -> None:
        self._say("trouble", reason=" ".join(reason.split())[:300])

    def _arrived(self) -> bool:
        return self._process.poll() == 0 and self._marker.exists() and not self._errors


def serve(messages: Iterator[dict[str, Any]], say: Say) -> None:
    """Log what the messages say until they end.

    Args:
        messages: the driver's; the first opens the run, `close` ends it. Without `close` the
            driver has died.
        say: answers the driver.
    """
    opening = next(messages)
    run = _open_run(opening)
    folder = Path(run.settings.sync_dir)
    say("log", path=str(folder))
    upload = Upload(folder, opening, say) if opening["mode"] == "online" else None
    closing: dict[str, Any] = {"exit_code": 255, "upload_s": opening["unreached_s"]}
    for message in messages:
        kind = message["kind"]
        if kind == "close":
            closing = message
            break
        try:
            if kind == "row":
                run.log(message["row"])
            elif kind == "tables":
                _log_tables(run, message)
            elif kind == "charts":
                _log_charts(run, message)
            elif kind == "files":
                log_files(run, message)
            else:
                raise ValueError(f"unknown message '{kind}'")
        except Exception as error:
            say("trouble", reason=f"{kind} not logged: {type(error).__name__}: {error}")
    run.finish(exit_code=closing["exit_code"])
    say("closed", uploaded=upload is not None and upload.finish(closing["upload_s"]))


def _open_run(opening: Mapping[str, Any]) -> Any:
    import wandb

    settings = wandb.Settings(
        silent=True,
        console="off",
        symlink=False,
        save_code=False,
        disable_code=True,
        disable_git=True,
        label_disable=True,
        # The manifest has what matters of the machine.
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        x_transaction_log_flush_interval=FLUSH_S,
        finish_timeout=10,
    )
    run = wandb.init(
        mode="offline",
        id=opening["run_id"],
        resume="allow",
        name=opening["name"],
        project=opening["project"],
        entity=opening["entity"],
        group=opening["group"],
        tags=opening["tags"],
        config=opening["config"],
        dir=opening["root"],
        settings=settings,
    )
    run.define_metric("cell/index")
    run.define_metric("cell/*", step_metric="cell/index")
    run.define_metric("progress/units_done")
    run.define_metric("progress/*", step_metric="progress/units_done")
    return run


def _log_tables(run: Any, message: Mapping[str, Any]) -> None:
    import wandb

    for name, table in message["tables"].items():
        run.log({name: wandb.Table(columns=table["columns"], data=table["rows"])})
    run.summary.update(message["summary"])


def _log_charts(run: Any, message: Mapping[str, Any]) -> None:
    import wandb

    run.log(
        {
            chart["name"]: wandb.plot_table(
                vega_spec_name=chart["preset"],
                data_table=wandb.Table(columns=chart["columns"], data=chart["rows"]),
                fields=chart["fields"],
                string_fields=chart["texts"],
            )
            for chart in message["charts"]
        }
    )
    run.summary.update(message["summary"])


def log_files(run: Any, message: Mapping[str, Any]) -> None:
    """Log files of the run directory as one artifact.

    Args:
        run: wandb's.
        message: `run_dir`, `run_id` and `names` of the files; `parts` stands for all parts.
    """
    import wandb

    from harness.results.store import RunStore

    store = RunStore(message["run_dir"])
    artifact = wandb.Artifact(f"grid-{message['run_id']}", type="grid", description="Records and figures of a grid.")
    names = [name for name in message["names"] if name != "parts"]
    if "parts" in message["names"]:
        names += [f"parts/{unit_id}.parquet" for unit_id in sorted(store.part_ids())]
    for name in names:
        if store.is_local:
            # Parts never change, so they need no copy before they are sent.
            immutable = name.startswith("parts/")
            artifact.add_file(
                store.path(name), name=name, policy="immutable" if immutable else "mutable", skip_cache=True
            )
        else:
            with artifact.new_file(name, "wb") as file:
                file.write(store.read_bytes(name))
    run.log_artifact(artifact)


def main() -> None:
    """Serve the driver on standard input and output; what wandb prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(kind: str, **facts: Any) -> None:
        # When the driver is gone, what is logged stays on disk all the same.
        with suppress(OSError):
            answers.write(json.dumps({"kind": kind, **facts}) + "\n")
            answers.flush()

    try:
        serve((json.loads(line) for line in sys.stdin), say)
    except Exception as error:
        say("trouble", reason=f"wandb failed: {type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
