"""A machine that lacks most of what the project installs, as a bare GPU machine does."""

import os
from pathlib import Path

ABSENT = (
    "ray", "omegaconf", "wandb", "plotly", "scipy", "statsmodels", "bs4", "bm25s", "ijson", "rich", "typer",
    "lm_eval", "vllm", "sglang",
)  # fmt: skip
"""None of these brings a plugin for pytest, which would look for it."""
HERE = Path(__file__).resolve().parent


def bare_environment(**more):
    """The environment in which Python, and every Python that it starts, finds no package of `ABSENT`."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parents[1]))), **more}
