"""Which samples `task.limit` takes, and in which order shards are cut: one order, by hashes of ids alone.

Knows ids and clusters; refuses to know tasks. The first N of the order are part of its first M for every M > N,
so that a run may grow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from harness.core.task import Sample

if TYPE_CHECKING:
    from harness.config.schema import TaskConfig


def draw_order(keys: Iterable[str], seed: int) -> list[str]:
    """The keys in an order given by the seed and each key alone, so that a shorter draw is the
    beginning of a longer one."""
    return sorted(keys, key=lambda key: _rank(key, seed))


def nested_order(samples: Sequence[Sample], seed: int) -> list[int]:
    """Places of the samples in the order of a seed; samples of one cluster are neighbours.

    Args:
        samples: in any order, ids unique.
        seed: `task.sample_seed`.
    """
    return [place for cluster in _clusters(samples, seed) for place in cluster]


def choose(samples: Sequence[Sample], options: TaskConfig) -> tuple[Sequence[Sample], str]:
    """The samples that `task.limit` takes, and what is to be said of it.

    Under `task.draw=nested` whole clusters, the first of the order, as many as have at most so many samples, and
    at least one; in the order of the file. Under `lecture` those that `pandas.DataFrame.sample` draws, in its order.

    Args:
        samples: all of the task, in the order of its files.
        options: `limit`, `draw` and `sample_seed` count.

    Returns:
        The samples, and a note for the log; an empty one where there is nothing to say.
    """
    limit = options.limit
    if limit is None:
        return samples, ""
    if limit >= len(samples):
        return samples, f"task.limit={limit} takes all {len(samples):,} samples"
    if options.draw == "lecture":
        import pandas as pd

        drawn = pd.Series(range(len(samples))).sample(limit, random_state=options.sample_seed)
        return [samples[place] for place in drawn], ""
    taken: list[int] = []
    clusters = _clusters(samples, options.sample_seed)
    n_clusters = 0
    for cluster in clusters:
        if taken and len(taken) + len(cluster) > limit:
            break
        taken += cluster
        n_clusters += 1
    note = f"task.limit={limit}: {len(taken):,} samples, {n_clusters:,} of {len(clusters):,} clusters, which stay whole"
    return [samples[place] for place in sorted(taken)], note if len(clusters) < len(samples) else ""


def _clusters(samples: Sequence[Sample], seed: int) -> list[list[int]]:
    """Places of the samples, cluster by cluster; a sample without one counts by itself."""
    found: dict[tuple[bool, str], list[int]] = {}
    for place, sample in enumerate(samples):
        found.setdefault((bool(sample.cluster), sample.cluster or sample.id), []).append(place)
    ordered = sorted(found, key=lambda group: (_rank(group[1], seed), group))
    return [sorted(found[group], key=lambda place: _rank(samples[place].id, seed)) for group in ordered]


def _rank(key: str, seed: int) -> tuple[bytes, str]:
    return hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest(), key
