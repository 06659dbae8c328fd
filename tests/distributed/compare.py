"""Comparing the records of two runs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness import load_records

EXACT = ["model", "task", "template", "k", "seed", "sample_id", "gold", "prediction", "argmax_token", "n_prompt_tokens"]


def assert_equal_records(first: str, second: str, tolerance: float = 1e-6) -> pd.DataFrame:
    """Both runs have the same rows, figures within the tolerance; returns the first's records."""
    left, right = load_records(first), load_records(second)
    pd.testing.assert_frame_equal(left[EXACT], right[EXACT])
    for a, b in zip(left["label_logprobs"], right["label_logprobs"], strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=0)
    np.testing.assert_allclose(left["off_label_mass"], right["off_label_mass"], atol=tolerance, rtol=0)
    assert not left.duplicated(["model", "template", "k", "seed", "sample_id"]).any()
    return left
