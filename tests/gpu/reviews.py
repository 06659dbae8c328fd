"""Workloads with as many reviews as a measurement wants."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks import nsmc
from tests.bench.models import REPO
from tests.bench.workloads import Workload, make_workload

EMBEDDED = REPO / "data_in" / "nsmc_demo"


def lecture_grid(tokenizer: Any, context: int, n_reviews: int) -> Workload:
    """The lecture's grid of K = 0 to 32 with fixed demonstrations, over embedded reviews.

    Those for training count as well: a review never is its own demonstration. They are the same on every machine,
    and read in no time.
    """
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as place:
        folder = Path(place) / "nsmc"
        folder.mkdir()
        train = (EMBEDDED / nsmc.TRAIN).read_text(encoding="utf-8")
        test = (EMBEDDED / nsmc.TEST).read_text(encoding="utf-8")
        (folder / nsmc.TRAIN).write_text(train, encoding="utf-8")
        (folder / nsmc.TEST).write_text(test + train.split("\n", 1)[1], encoding="utf-8")
        return replace(make_workload("a", tokenizer, context, n_reviews, Path(place)), data="embedded reviews")
