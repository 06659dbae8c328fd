"""Workloads with as many reviews as a measurement wants."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tasks import nsmc
from tests.bench.models import REPO
from tests.bench.workloads import SHARED, Workload, make_workload

EMBEDDED = REPO / "data_in" / "nsmc_demo"


def lecture_grid(tokenizer: Any, context: int, n_reviews: int) -> Workload:
    """The lecture's grid of K = 0 to 32 with fixed demonstrations, over real reviews where they are at hand.

    Of the embedded reviews, those for training count as well: a review never is its own demonstration.
    """
    with ExitStack() as stack:
        data = None
        if not (SHARED / "nsmc" / nsmc.TEST).is_file():
            data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-check-")))
            (data / "nsmc").mkdir()
            train = (EMBEDDED / nsmc.TRAIN).read_text(encoding="utf-8")
            test = (EMBEDDED / nsmc.TEST).read_text(encoding="utf-8")
            (data / "nsmc" / nsmc.TRAIN).write_text(train, encoding="utf-8")
            (data / "nsmc" / nsmc.TEST).write_text(test + train.split("\n", 1)[1], encoding="utf-8")
        return make_workload("a", tokenizer, context, n_reviews, data)
