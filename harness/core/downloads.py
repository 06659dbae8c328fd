"""Downloads of official files, verified by their git blob ids.

A file is written under a temporary name and takes its place only when its content is the
official one; nothing half-written stays. Which files there are is the task's.
"""

from __future__ import annotations

import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from harness.core.errors import DataError
from harness.core.hashing import git_blob_sha1
from harness.core.task import RemoteFile

TIMEOUT_S = 30.0


def fetch(files: Sequence[RemoteFile], folder: Path, console: Console) -> None:
    """Download what is missing or damaged; archives are unpacked beside themselves.

    Raises:
        DataError: unreachable, or not the official content; names the address to fetch by hand.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the folder '{folder}' cannot be made: {error.strerror}; give another with --to") from None
    for file in files:
        target = folder / file.name
        if target.is_file() and git_blob_sha1(target) == file.blob:
            console.print(f"{target}: already there and verified", highlight=False)
        else:
            _download(file, target, console)
            console.print(f"{target}: downloaded and verified", highlight=False)
        if target.suffix == ".zip":
            with zipfile.ZipFile(target) as archive:
                archive.extractall(folder)


def _download(file: RemoteFile, target: Path, console: Console) -> None:
    partial = target.with_name(target.name + ".part")
    columns = (TextColumn(file.name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with (
            urllib.request.urlopen(file.url, timeout=TIMEOUT_S) as response,  # noqa: S310 - an installed task names it
            partial.open("wb") as out,
            Progress(*columns, console=console) as progress,
        ):
            size = int(response.headers.get("Content-Length") or 0)
            bar = progress.add_task("", total=size or None)
            while block := response.read(1 << 18):
                out.write(block)
                progress.update(bar, advance=len(block))
        found = git_blob_sha1(partial)
        if found != file.blob:
            raise DataError(
                f"{file.url} gave content with git blob id {found}, expected {file.blob}; "
                f"try again, or fetch it by hand into '{target.parent}'"
            )
        partial.replace(target)
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"{file.url} cannot be fetched: {reason}; download it by hand into '{target.parent}' and run this again"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
