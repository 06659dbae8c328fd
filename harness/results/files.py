"""The files of a run directory on local disk or any `pyarrow.fs` storage: bytes in, bytes out.

Every write is atomic: a reader sees the whole file or none of it. Every operation has patience
with storage that fails for a while. Refuses to know what the files hold.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

from harness.core.addresses import address_fault
from harness.core.errors import RunDirError
from harness.results.retrying import PATIENCE, Patience, patiently

T = TypeVar("T")
_LEFTOVER = re.compile(r".+\.(json|parquet|html|writable)\.[0-9a-f]{8}\.tmp|\.writable\.[0-9a-f]{8}\.tmp")
"""What `_rename_into_place` leaves behind when it is killed."""
MOST_BYTES = 2**32
"""Of any file of a run directory that is read as a whole."""
S3_TRIES = 3
GCS_SECONDS = 10
"""How long the stores' own clients try, silently, before an error reaches `retrying`."""


class RunFiles:
    """Reads and writes the files of one run directory. Cheap to build anew in any process.

    All methods raise `RunDirError` for what the user can mend (no room, no right, no such bucket)
    and `StorageError` when storage keeps failing; see `harness.results.retrying`.

    Args:
        run_dir: a local path, or a URI such as `s3://bucket/results/name`.
        patience: how long storage may fail.
    """

    def __init__(self, run_dir: str, patience: Patience = PATIENCE) -> None:
        self._patience = patience
        if fault := address_fault(run_dir):
            raise RunDirError(f"the run directory {fault}")
        if "://" in run_dir:
            self.fs, self.root = patiently(run_dir, "opened", lambda: _open(run_dir), patience)
        else:
            self.fs, self.root = fs.LocalFileSystem(), str(Path(run_dir).absolute())
        self.run_dir = run_dir
        self.is_local = isinstance(self.fs, fs.LocalFileSystem)

    def path(self, *names: str) -> str:
        """A path inside the run directory, in the storage's own form."""
        return "/".join((self.root, *names))

    def create(self, folder: str = "parts") -> None:
        """Make the directory and prove that it can be written.

        Args:
            folder: one in it that is to be there, too; an empty text for none.

        Raises:
            RunDirError: it cannot.
        """
        self._write(folder, lambda: self.fs.create_dir(self.path(folder).rstrip("/"), recursive=True))
        self.write_bytes(".writable", b"")
        self.remove(".writable")

    def exists(self, *names: str) -> bool:
        """Whether a file or folder is there."""
        info = self._do("/".join(names), "looked up", lambda: self.fs.get_file_info(self.path(*names)))
        return bool(info.type != fs.FileType.NotFound)

    def files(self, *names: str) -> dict[str, int]:
        """Files of a folder of the run directory; one listing, however many they are.

        Returns:
            Name to the time of the last change by the storage's clock, nanoseconds since the epoch.
        """
        selector = fs.FileSelector(self.path(*names), allow_not_found=True)
        infos = self._do("/".join(names), "listed", lambda: self.fs.get_file_info(selector))
        return {info.base_name: info.mtime_ns or 0 for info in infos if info.is_file}

    def write_bytes(self, name: str, data: bytes, durable: bool = True) -> None:
        """Write a file as a whole: renamed into place locally, one put on object stores.

        Args:
            name: of the file.
            data: all of it.
            durable: whether it is to outlive the machine, which takes milliseconds; else it outlives the process.
        """

        def write() -> None:
            if self.is_local:
                _rename_into_place(self.path(name), data, durable)
            else:
                self._put(self.path(name), data)

        self._write(name, write)

    def read_bytes(self, name: str) -> bytes:
        """All of a file.

        Raises:
            FileNotFoundError: not there.
        """

        def read() -> bytes:
            self._expect_file(name)
            with self.fs.open_input_stream(self.path(name)) as stream:
                data: bytes = stream.read()
            return data

        return self._do(name, "read", read)

    def read_end(self, name: str, size: int) -> bytes:
        """The last bytes of a file, all of one that is shorter.

        Raises:
            FileNotFoundError: not there.
        """

        def read() -> bytes:
            self._expect_file(name)
            with self.fs.open_input_file(self.path(name)) as file:
                file.seek(max(0, file.size() - size))
                data: bytes = file.read()
            return data

        return self._do(name, "read", read)

    def remove(self, name: str) -> None:
        """Delete a file; one that is gone already is no error."""
        with suppress(FileNotFoundError):
            self._do(name, "removed", lambda: self.fs.delete_file(self.path(name)))

    def remove_leftovers(self) -> None:
        """Delete temporary files of writers that were killed, and no others; object stores have none."""
        if not self.is_local:
            return
        for folder in ((), ("parts",)):
            for name in self.files(*folder):
                if _LEFTOVER.fullmatch(name):
                    self.remove("/".join((*folder, name)))

    def anew(self) -> str:
        """What to do about a run directory that cannot be mended."""
        return "start anew with --fresh" if self.is_local else "start anew under another name=..."

    def _expect_file(self, name: str) -> None:
        """Refuse what would never end or is no file: a device, a pipe, a folder in its place, terabytes of nothing."""
        if not self.is_local:
            return
        found = self.fs.get_file_info(self.path(name))
        kind = found.type
        if (found.size or 0) > MOST_BYTES:
            raise RunDirError(
                f"'{self.run_dir}/{name}' has {found.size:,} bytes, expected at most {MOST_BYTES:,}; {self.anew()}"
            )
        if kind not in (fs.FileType.File, fs.FileType.NotFound):
            what = "a folder" if kind == fs.FileType.Directory else "no regular file"
            raise RunDirError(f"'{self.run_dir}/{name}' is {what}, expected a file; {self.anew()}")

    def _do(self, name: str, verb: str, action: Callable[[], T]) -> T:
        return patiently(f"{self.run_dir}/{name}" if name else self.run_dir, verb, action, self._patience)

    def _write(self, name: str, action: Callable[[], None]) -> None:
        try:
            self._do(name, "written", action)
        except FileNotFoundError:
            raise RunDirError(
                f"'{self.run_dir}/{name}' cannot be written: its folder is not there on this machine; "
                "set out=... to a folder or storage that every node sees"
            ) from None

    def _put(self, target: str, data: bytes) -> None:
        with self.fs.open_output_stream(target) as stream:
            stream.write(data)


def _rename_into_place(target: str, data: bytes, durable: bool) -> None:
    temporary = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _open(uri: str) -> tuple[fs.FileSystem, str]:
    if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in uri:
        uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={GCS_SECONDS}"
    opened, root = fs.FileSystem.from_uri(uri)
    if opened.type_name == "s3":
        # A URI cannot ask for this: files of up to 10 MiB as one put instead of three requests.
        rebuild, (settings,) = opened.__reduce__()
        tries = fs.AwsStandardS3RetryStrategy(max_attempts=S3_TRIES)
        opened = rebuild({**settings, "allow_delayed_open": True, "retry_strategy": tries})
    return opened, root
