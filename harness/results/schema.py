"""The record: one row per (cell, sample)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DIGEST_VERSION = "2:"
"""How digests begin, so that those of another kind are told apart."""

SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("task", pa.string()),
        ("template", pa.string()),  # null for a reference, which is no prompt
        ("k", pa.int32()),  # of a reference the labelled examples it was trained on; null where it came trained
        ("seed", pa.int64()),  # null where nothing was drawn
        ("sample_id", pa.string()),
        ("gold", pa.int32()),  # -1 for tasks whose answers are generated
        ("prediction", pa.int32()),  # null when scoring failed; -1 when generated text is no label
        ("label_logprobs", pa.list_(pa.float64())),  # nats, label order
        ("label_token_counts", pa.list_(pa.int32())),
        ("argmax_token", pa.int32()),  # most likely token at the first label position
        ("argmax_text", pa.string()),
        ("greedy_prediction", pa.int32()),  # class whose label text is argmax_text, else null
        ("off_label_mass", pa.float64()),
        ("n_prompt_tokens", pa.int32()),
        ("raw_answer", pa.string()),  # generated text before the stop string, without reasoning
        ("answer", pa.string()),  # the same, stripped and cleaned as configured
        ("n_generated_tokens", pa.int32()),
        ("finish_reason", pa.string()),  # stop, end or length
        ("answer_values", pa.list_(pa.float64())),  # the task's answer metrics, in the manifest's order
        ("error_type", pa.string()),
        ("error", pa.string()),  # null when scored
        ("reasoning", pa.string()),  # generated text before the answer, where the model was to think first
    ]
)
LATER = ("reasoning",)
"""Columns at the end that parts of earlier versions lack; all null there."""


@dataclass(frozen=True, slots=True)
class Record:
    """One scored (or failed) prompt of one cell; fields as in `SCHEMA`."""

    model: str
    task: str
    template: str | None
    k: int | None
    seed: int | None
    sample_id: str
    gold: int
    prediction: int | None = None
    label_logprobs: list[float] | None = None
    label_token_counts: list[int] | None = None
    argmax_token: int | None = None
    argmax_text: str | None = None
    greedy_prediction: int | None = None
    off_label_mass: float | None = None
    n_prompt_tokens: int | None = None
    raw_answer: str | None = None
    answer: str | None = None
    n_generated_tokens: int | None = None
    finish_reason: str | None = None
    answer_values: list[float] | None = None
    error_type: str | None = None
    error: str | None = None
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class UnitStatistics:
    """What one unit took."""

    n_records: int
    n_failed: int
    n_prompts: int
    """Prompts that went through the model."""
    prompt_tokens: int
    """Their tokens, as one pass per prompt."""
    tokens_computed: int
    """Tokens that the model computed."""
    seconds: float
    """Worked on the unit: preparing, computing and judging it, without waiting between these. Units overlap on a
    replica with a GPU, so that their sum may exceed the time that passed."""
    scoring_seconds: float
    """Of `seconds`, those in which the unit had the model; these never overlap on one replica."""
    replica: str = ""
    """Host and process that did it."""
    cost: float = 0.0
    """Of its requests, where they are paid for."""


def to_table(records: list[Record]) -> pa.Table:
    """Records as an Arrow table with the schema."""
    columns = {name: [getattr(record, name) for record in records] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)


def table_digest(table: pa.Table) -> str:
    """Hash of a table's values, whatever their layout in memory or on disk."""
    digest = hashlib.blake2b(digest_size=16)
    for column in table.columns:
        _add_values(digest, column.combine_chunks())
    return f"{DIGEST_VERSION}{digest.hexdigest()}"


def holds(table: pa.Table, digest: str) -> bool:
    """Whether a table has the values of which a digest was taken."""
    if digest.startswith(DIGEST_VERSION):
        return table_digest(table) == digest
    # Parts of version 0.1.0 and before: the same values as Python writes them, which takes several times longer.
    written = hashlib.blake2b(digest_size=16)
    for column in table.columns:
        written.update(repr(column.to_pylist()).encode())
    return written.hexdigest() == digest


def _add_values(digest: hashlib.blake2b, array: pa.Array) -> None:
    """Which values are null, how long each is, and the values themselves, without what lies under nulls."""
    digest.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).data)
    if pa.types.is_list(array.type):
        digest.update(pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False))
        _add_values(digest, array.flatten())
    elif pa.types.is_string(array.type):
        filled = array.fill_null("")
        digest.update(pc.binary_length(filled).to_numpy(zero_copy_only=False))
        _, offsets, text = filled.buffers()
        if text is not None:
            ends = np.frombuffer(offsets, np.int32)[filled.offset : filled.offset + len(filled) + 1]
            digest.update(memoryview(text)[ends[0] : ends[-1]])
    else:
        digest.update(np.ascontiguousarray(array.fill_null(0).to_numpy(zero_copy_only=False)).data)
