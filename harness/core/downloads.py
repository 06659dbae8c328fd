"""Downloads of the official data sets, verified by their git blob ids.

A file is written under a temporary name and takes its place only when its content is the
official one; nothing half-written stays.
"""

from __future__ import annotations

import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from harness.core.errors import DataError
from harness.core.hashing import git_blob_sha1

TIMEOUT_S = 30.0
_NSMC = "https://raw.githubusercontent.com/e9t/nsmc/master"
_KORQUAD = "https://raw.githubusercontent.com/korquad/korquad.github.io/master/dataset"


@dataclass(frozen=True)
class RemoteFile:
    """One official file."""

    name: str
    url: str
    blob: str
    """Git blob id: sha1 of `blob <size>\\0` and the bytes."""


DATASETS: dict[str, tuple[RemoteFile, ...]] = {
    "nsmc": (
        RemoteFile("ratings_train.txt", f"{_NSMC}/ratings_train.txt", "ac0dba272895dc1d0b3dd5f11afbeaeb7abe7876"),
        RemoteFile("ratings_test.txt", f"{_NSMC}/ratings_test.txt", "b6cfcd8cd1557bcd9bf06617b0e429ed73e9a367"),
    ),
    "korquad1": (
        RemoteFile(
            "KorQuAD_v1.0_train.json",
            f"{_KORQUAD}/KorQuAD_v1.0_train.json",
            "82e3c5939e5e61a1c4ae94e42676800e88ec52a6",
        ),
        RemoteFile(
            "KorQuAD_v1.0_dev.json", f"{_KORQUAD}/KorQuAD_v1.0_dev.json", "6849d8c79140447018f5701a0453835c96608a07"
        ),
    ),
    "korquad2": tuple(
        RemoteFile(
            f"KorQuAD_2.1_{part}_{index:02d}.zip",
            f"{_KORQUAD}/KorQuAD_2.1/{part}/KorQuAD_2.1_{part}_{index:02d}.zip",
            blob,
        )
        for part, blobs in (
            (
                "dev",
                ("60724538158c89880c9a46c4f107bafaaffeeb14", "5f89dc1f148f72902f5ceea33024b179b923b64a"),
            ),
            (
                "train",
                (
                    "88328a2f9c4f196786eab52f4ea598439887e8c0",
                    "edc00ed4d0e45104930ada22fa5869b0d7f4e17e",
                    "a2273272f976e7da36ee004db8b1686128594bd7",
                    "31a4729443d3425d3ff368d128044148961dade1",
                    "d3029960e99a0948154a1b9be6f780275161ad7f",
                    "35ed708e5b73af4bb800649d69825469ec2f7851",
                    "a673615f8cc94c28c3adc850bb66c757e9b3e41e",
                    "83ed111e5a6f78a581b0c228c3a2812fdf34031b",
                    "7664a5c72c8ed552599774ba7476f613f3de09a3",
                    "ed81f94099f540787571b378493813009a1de947",
                    "7c41f6f8c6d7c64dc48c092d34abfec61a8447fe",
                    "f9c56f68b9c1313a89cc8cd7a55649b1fa210119",
                    "110332e1cef6068386bed56b587881ef1de177a9",
                ),
            ),
        )
        for index, blob in enumerate(blobs)
    ),
}


def fetch(files: tuple[RemoteFile, ...], folder: Path, console: Console) -> None:
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
            urllib.request.urlopen(file.url, timeout=TIMEOUT_S) as response,  # noqa: S310 - fixed https addresses
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
