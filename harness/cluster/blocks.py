"""Samples as blocks of a Ray Dataset, and back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from harness.core.task import Sample
from harness.planning.units import Shard

ATTRIBUTES = ("id", "gold", "answers", "choices", "source", "cluster")
"""Columns of a sample's own, besides its fields."""


def shard_refs(shards: Sequence[Shard]) -> list[Any]:
    """Shards as block references of a Ray Dataset, in order."""
    import ray.data  # takes a second, which replicas need not spend

    ray.data.DataContext.get_current().enable_progress_bars = False
    # Blocks are put, not computed: that replicas hold all processors does not matter.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # `from_arrow` would ask tasks for the tables' schemas, and wait where no processor is free for them.
    dataset = ray.data.from_blocks([table_from(shard.samples) for shard in shards])
    return list(dataset.to_arrow_refs())


def table_from(samples: Sequence[Sample]) -> pa.Table:
    """Samples as an Arrow table: their attributes, and a column per field named `field:<name>`."""
    names = list(samples[0].fields) if samples else []
    columns: dict[str, Any] = {
        "id": [s.id for s in samples],
        "gold": [s.gold for s in samples],
        "answers": pa.array([list(s.answers) for s in samples], pa.list_(pa.string())),
        "choices": pa.array([list(s.choices) for s in samples], pa.list_(pa.string())),
        "source": [s.source for s in samples],
        "cluster": [s.cluster for s in samples],
    }
    columns |= {f"field:{name}": [s.fields[name] for s in samples] for name in names}
    return pa.table(columns)


def samples_from(table: pa.Table) -> list[Sample]:
    """The inverse of `table_from`."""
    names = [name for name in table.column_names if name.startswith("field:")]
    fields = [table[name].to_pylist() for name in names]
    keys = [name.removeprefix("field:") for name in names]
    attributes = [table[name].to_pylist() for name in ATTRIBUTES]
    return [
        Sample(
            id=i,
            fields=dict(zip(keys, texts, strict=True)),
            gold=gold,
            answers=tuple(answers),
            choices=tuple(choices),
            source=source,
            cluster=cluster,
        )
        for i, gold, answers, choices, source, cluster, *texts in zip(*attributes, *fields, strict=True)
    ]
