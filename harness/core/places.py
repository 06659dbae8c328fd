"""Where the package itself lies."""

from __future__ import annotations

from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
"""The folder that holds the package `harness`; in a source tree also `pyproject.toml`."""
