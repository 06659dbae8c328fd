"""Where the package itself lies, and the files that come with it."""

from __future__ import annotations

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
    if Path(path).exists():
        return path
    for root in (SHIPPED, SOURCE):
        if (root / path).exists():
            return str(root / path)
    return path
