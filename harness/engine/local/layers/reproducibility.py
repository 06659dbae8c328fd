"""Matrix products whose sums do not depend on how many rows or threads take part."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "MKL_CBWR"
STRICT = "AUTO,STRICT"


def fix_order_of_sums(processors: Path = Path("/proc/cpuinfo")) -> None:
    """Ask MKL for its strict reproducibility, before the first matrix product of the process.

    Left to itself, MKL lets two threads split the sums of narrow products of few rows (measured with AVX-512:
    1,024 x 256 weights, up to 129 rows), so that float32 scores would differ between numbers of threads and sizes
    of packs by some 1e-6. Other makers' processors are left alone: MKL has no strict mode for them. A value in
    the environment stays.

    Args:
        processors: where Linux says which processors there are; nothing is done where it is missing.
    """
    if processors.exists() and "GenuineIntel" in processors.read_text():
        os.environ.setdefault(VARIABLE, STRICT)
