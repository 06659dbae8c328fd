"""The samples that a page carries, in a compact form, and how many of which kind there are.

A page cannot carry every text: samples of each kind take turns, in the order of a hash of their
ids, until the page's share of bytes is used.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analysis.table import BoolArray, IntArray
from harness.reporting.report.gathering import ReportData
from harness.reporting.report.groups import groups_of
from harness.reporting.report.predictions import AnswerGrid
from harness.reporting.report.prompting import Prompts
from harness.reporting.report.slices import slices_of

MOST_BYTES = 2_000_000
"""Of the samples' JSON."""
MOST_CHARACTERS = 1200
"""Of one text; longer ones are cut, with a note of their length."""
BITS = {"wrong_all": 1, "disagree": 2, "failed": 4, "no_label": 8, "cut_off": 16, "right_all": 32}


@dataclass(frozen=True)
class Browser:
    """What the samples' part of a page shows."""

    document: dict[str, Any]
    """For the page's script."""
    n_samples: int
    n_shown: int
    counts: dict[str, int]
    """Kind to number of samples in the whole run; kinds that cannot occur are left out."""


def browser(data: ReportData, most_bytes: int = MOST_BYTES) -> Browser:
    """Choose and encode samples.

    Args:
        data: of the report.
        most_bytes: of the encoded samples, about.
    """
    grid = data.answers
    kinds = _kinds(data)
    flags: IntArray = np.stack([BITS[name] * kind for name, kind in kinds.items()]).sum(axis=0)
    order = _turns(grid.sample_ids, [np.flatnonzero(kind) for name, kind in kinds.items() if name != "right_all"])
    texts: dict[str, int] = {}
    slices, prompts = slices_of(data), Prompts(data)
    encode = _generated(data, texts) if grid.texts is not None else _classified(data)
    chosen: dict[int, dict[str, Any]] = {}
    used = 0
    for sample in order:
        before = len(texts)
        entry = _entry(grid, sample, int(flags[sample]), texts) | encode(sample)
        if own := prompts.own_of(grid.sample_ids[sample]):
            entry["o"] = own
        if grid.choices is not None:
            shown = prompts.choices_of(grid.sample_ids[sample], grid.choices[sample])
            entry["c"] = {query: texts.setdefault(text, len(texts)) for query, text in shown.items()}
        entry["s"] = [place for place, one in enumerate(slices) if one.samples[sample]]
        new = itertools.islice(texts, before, None)
        used += len(json.dumps(entry, ensure_ascii=False).encode()) + sum(len(text.encode()) + 3 for text in new)
        if used > most_bytes and chosen:
            for text in list(itertools.islice(texts, before, None)):
                del texts[text]
            break
        chosen[sample] = entry
    document = {
        "labels": data.cells["label"].tolist(),
        "groups": [{"name": group.label, "cells": list(group.cells)} for group in groups_of(data)],
        "slices": [one.name for one in slices],
        "classes": [] if data.is_generated else data.class_names,
        "metrics": list(data.runs[0].manifest.get("answer_metrics") or []),
        "fields": list(grid.fields),
        "glance": _glance(grid),
        "bits": BITS,
        "texts": list(texts),
        "prompts": prompts.document,
        "n_samples": len(grid.sample_ids),
        "samples": [chosen[sample] for sample in sorted(chosen)],
    }
    counts = {name: int(kind.sum()) for name, kind in kinds.items()}
    return Browser(document, len(grid.sample_ids), len(chosen), counts)


def _kinds(data: ReportData) -> dict[str, BoolArray]:
    """Kind to (samples,); whether a sample is of it."""
    grid = data.answers
    scored = np.isfinite(grid.value)
    least = np.where(scored, grid.value, np.inf).min(axis=0)
    most = np.where(scored, grid.value, -np.inf).max(axis=0)
    some = scored.any(axis=0)
    if data.is_generated:
        disagree = some & (most > least)
    else:
        first = np.where(scored, grid.predicted, 10**6).min(axis=0)
        disagree = some & (np.where(scored, grid.predicted, -(10**6)).max(axis=0) > first)
    kinds = {"wrong_all": some & (most <= 0), "disagree": disagree, "failed": grid.failed.any(axis=0)}
    if not data.is_generated:
        kinds["no_label"] = grid.no_label.any(axis=0)
    if grid.texts is not None:
        kinds["cut_off"] = grid.cut_off.any(axis=0)
    kinds["right_all"] = some & (least >= 1)
    return kinds


def _glance(grid: AnswerGrid) -> int:
    """The field that tells samples apart at a glance: most distinct texts, then the shortest."""
    sizes = [(-len(set(texts)), sum(map(len, texts)), place) for place, texts in enumerate(grid.fields.values())]
    return min(sizes)[2]


def _turns(ids: Sequence[str], groups: Sequence[np.ndarray[Any, Any]]) -> list[int]:
    """All samples: the groups and the whole take turns, each in the order of a hash of the ids."""
    rank = sorted(range(len(ids)), key=lambda i: hashlib.blake2b(ids[i].encode(), digest_size=8).digest())
    position = np.empty(len(ids), dtype=np.int64)
    position[rank] = np.arange(len(ids))
    queues = [sorted(group.tolist(), key=lambda i: int(position[i])) for group in groups]
    rounds = itertools.chain.from_iterable(itertools.zip_longest(rank, *queues))
    return list(dict.fromkeys(sample for sample in rounds if sample is not None))


def _entry(grid: AnswerGrid, sample: int, flags: int, texts: dict[str, int]) -> dict[str, Any]:
    """What every sample has: texts stand once on the page, since questions share paragraphs."""
    places = [texts.setdefault(_cut(column[sample]), len(texts)) for column in grid.fields.values()]
    entry: dict[str, Any] = {"i": grid.sample_ids[sample], "f": flags, "t": places}
    broken = {row: text for row, text in enumerate(_errors(grid, sample)) if text}
    return entry | ({"e": broken} if broken else {})


def _errors(grid: AnswerGrid, sample: int) -> list[str]:
    return [_cut(grid.errors.get((row, sample), ""), 300) for row in range(len(grid.value))]


def _classified(data: ReportData) -> Callable[[int], dict[str, Any]]:
    """Predictions, and log-probabilities in hundredths of a nat."""
    grid = data.answers
    cents = None
    if grid.logprobs is not None:
        # Rounding to cents cannot show a NaN, nor what lies beyond e^-9999.
        known = np.isfinite(grid.logprobs)
        cents = np.where(known, np.rint(100 * np.where(known, grid.logprobs, 0)), 1).clip(-999_900).astype(np.int64)

    def encode(sample: int) -> dict[str, Any]:
        entry: dict[str, Any] = {"g": int(grid.gold[sample]), "p": grid.predicted[:, sample].tolist()}
        if cents is not None:
            entry["l"] = cents[:, sample].ravel().tolist()
        return entry

    return encode


def _generated(data: ReportData, texts: dict[str, int]) -> Callable[[int], dict[str, Any]]:
    """Answers as places in the page's texts, and their values in thousandths."""
    grid = data.answers

    def encode(sample: int) -> dict[str, Any]:
        assert grid.texts is not None
        answers = [-1 if a is None else texts.setdefault(_cut(a), len(texts)) for a in grid.texts[:, sample]]
        entry: dict[str, Any] = {"a": answers, "p": grid.predicted[:, sample].tolist()}
        thoughts = {
            row: grid.reasonings[row, sample] for row in range(len(answers)) if (row, sample) in grid.reasonings
        }
        if thoughts:
            entry["r"] = {row: texts.setdefault(_cut(text), len(texts)) for row, text in thoughts.items()}
        if data.is_generated:
            entry["g"] = list(dict.fromkeys(grid.gold_answers[sample]))
            assert grid.metric_values is not None
            values = grid.metric_values[:, sample]
            known = np.isfinite(values)
            entry["v"] = [
                round(1000 * float(v)) if ok else None for v, ok in zip(values.ravel(), known.ravel(), strict=True)
            ]
        else:
            entry["g"] = int(grid.gold[sample])
        return entry

    return encode


def _cut(text: str, most: int = MOST_CHARACTERS) -> str:
    return text if len(text) <= most else f"{text[:most]} … (+{len(text) - most:,} characters)"
