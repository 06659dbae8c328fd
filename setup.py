"""What `pyproject.toml` cannot say: a built package carries the configurations, the embedded model and data."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("configs", "data_in/korquad_demo", "data_in/models/ko-tiny", "data_in/nsmc_demo", "tasks/templates")
"""Folders that `harness.core.places.found` looks for; a source tree has them as they are."""


class BuildWithFiles(build_py):
    """Copies the folders below `harness/shipped`."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        source = Path(__file__).resolve().parent
        for folder in SHIPPED:
            target = Path(self.build_lib) / "harness" / "shipped" / folder
            shutil.copytree(source / folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildWithFiles})
