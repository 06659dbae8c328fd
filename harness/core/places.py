"""Where the package itself lies, and the files that come with it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
"""The folder that holds the package `harness`; in a source tree also `pyproject.toml`."""
SHIPPED = SOURCE / "harness" / "shipped"
"""Configurations, the embedded model and data in a built package; a source tree has them beside `harness`."""
FOLDERS = ("configs", "data_in", "tasks")
"""That a path to a file of the package begins with."""


def found(path: str) -> str:
    """A path, or where nothing is there the file or folder of that name that came with the package."""
    first, _, rest = path.partition("/")
    if first not in FOLDERS or not rest or ".." in rest.split("/"):
        return path
    places = (Path(path), SHIPPED / path, SOURCE / path)
    with suppress(OSError):  # a name that is too long is no file's
        return next((str(place) for place in places[1:] if place.exists()), path) if not places[0].exists() else path
    return path
