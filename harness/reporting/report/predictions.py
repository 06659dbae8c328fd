"""What each cell answered to each sample, as dense arrays.

Knows records and samples; refuses to know what is shown of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.compared_runs import read_manifest
from harness.analysis.confusion import Confusion, confusion
from harness.analysis.table import ACCURACY, BoolArray, FloatArray, IntArray
from harness.results.records import load_records
from harness.results.samples import CHOICES, check_known, read_samples
from harness.results.store import RunStore

FAILED, NOT_ATTEMPTED = -2, -3
"""In place of a predicted class; -1 is text that is no label."""
RECORD_COLUMNS = [
    "model", "template", "k", "seed", "sample_id", "gold", "prediction", "label_logprobs", "greedy_prediction",
    "n_prompt_tokens", "answer", "finish_reason", "answer_values", "error_type", "error",
    "reasoning",
]  # fmt: skip
NOT_FIELDS = ("sample_id", "gold", "answers", "cluster", CHOICES)
TextArray = NDArray[np.object_]


@dataclass(frozen=True)
class AnswerGrid:
    """Shapes: S cells, N samples, C classes, M metrics."""

    sample_ids: list[str]
    fields: dict[str, list[str]]
    """The samples' texts, by field."""
    gold: IntArray
    """(N,) class; -1 where answers are generated."""
    gold_answers: list[list[str]]
    """Right answers of a generation task."""
    value: FloatArray
    """(S, N) what cells are ranked by, 0 to 1; NaN where nothing was scored."""
    predicted: IntArray
    """(S, N) class, -1, `FAILED` or `NOT_ATTEMPTED`; 0 where a text was answered."""
    logprobs: FloatArray | None
    """(S, N, C) nats; NaN where missing. None where answers are generated."""
    no_label: BoolArray
    """(S, N) the most likely next token, or the generated text, is no label."""
    cut_off: BoolArray
    """(S, N) the answer hit the token limit."""
    texts: TextArray | None
    """(S, N) generated answers; None where labels were scored."""
    metric_values: FloatArray | None
    """(S, N, M) of generated answers."""
    errors: dict[tuple[int, int], str]
    """(cell, sample) to what failed."""
    reasonings: dict[tuple[int, int], str]
    """(cell, sample) to what was thought before the answer, where anything was."""
    mean_prompt_tokens: FloatArray
    """(S,) over samples with a count."""
    longest_prompt: FloatArray
    """(S,) tokens."""
    confusions: list[Confusion] | None
    """Per cell, of a classification task."""
    choices: list[list[str]] | None
    """Per sample, where samples bring their own."""
    clusters: IntArray | None
    """(N,) codes of dependent samples; None where samples are independent."""

    @property
    def failed(self) -> BoolArray:
        """(S, N)"""
        failed: BoolArray = self.predicted == FAILED
        return failed


def answer_grid(runs: Sequence[tuple[str, str]], cells: pd.DataFrame, metric: str) -> AnswerGrid:
    """Read the records of the cells.

    Args:
        runs: (run directory, name in the column `run`).
        cells: `run`, `model`, `template`, `k`, `cell_seed`, one row per cell.
        metric: what they are ranked by.
    """
    samples = _samples([run_dir for run_dir, _ in runs])
    ids = samples["sample_id"].tolist()
    place = pd.Series(np.arange(len(ids)), index=ids)
    keys = cells[["run", "model", "template", "k", "cell_seed"]].to_numpy(dtype=object).tolist()
    rows = {_cell_key(key): i for i, key in enumerate(keys)}
    shape = (len(cells), len(ids))
    filling = _Filling(shape, metric)
    for run_dir, name in runs:
        manifest = read_manifest(run_dir)
        metrics, n_classes = list(manifest.get("answer_metrics") or []), len(manifest["class_names"])
        records = load_records(run_dir, RECORD_COLUMNS)
        check_known(RunStore(run_dir), ids, records["sample_id"].unique())
        for key, cell in records.groupby(["model", "template", "k", "seed"], sort=False, observed=True, dropna=False):
            row = rows.get(_cell_key([name, *key]))
            if row is not None:
                filling.add(row, cell, place.loc[cell["sample_id"]].to_numpy(), metrics, n_classes)
    fields = {c: samples[c].astype(str).tolist() for c in samples.columns if c not in NOT_FIELDS}
    if CHOICES in samples:
        fields["choices"] = ["\n".join(f"{n}. {c}" for n, c in enumerate(row, 1)) for row in samples[CHOICES].tolist()]
    choices = [[str(c) for c in row] for row in samples[CHOICES].tolist()] if CHOICES in samples else None
    golds = [[] if a is None else [str(text) for text in a] for a in samples["answers"].tolist()]
    clusters = pd.factorize(samples["cluster"])[0] if samples["cluster"].astype(bool).any() else None
    return filling.grid(ids, fields, samples["gold"].to_numpy(dtype=np.int64), golds, choices, clusters)


def _cell_key(names: Sequence[Any]) -> tuple[Any, ...]:
    """Run, model, template, K and seed; None where a reference has none, so that it is found again."""
    return tuple(None if pd.isna(name) else name if isinstance(name, str) else int(name) for name in names)


class _Filling:
    """Arrays that are filled cell by cell."""

    def __init__(self, shape: tuple[int, int], metric: str) -> None:
        self.shape, self.metric = shape, metric
        self.value = np.full(shape, np.nan)
        self.predicted = np.full(shape, NOT_ATTEMPTED, dtype=np.int64)
        self.logprobs: FloatArray | None = None
        self.no_label = np.zeros(shape, dtype=bool)
        self.cut_off = np.zeros(shape, dtype=bool)
        self.texts: TextArray | None = None
        self.metric_values: FloatArray | None = None
        self.errors: dict[tuple[int, int], str] = {}
        self.reasonings: dict[tuple[int, int], str] = {}
        self.tokens = np.full(shape, np.nan)
        self.confusions: dict[int, Confusion] = {}

    def add(self, row: int, cell: pd.DataFrame, at: IntArray, metrics: Sequence[str], n_classes: int) -> None:
        """The records of one cell; `at` are their samples."""
        self.tokens[row, at] = cell["n_prompt_tokens"].to_numpy(dtype=float, na_value=np.nan)
        self.cut_off[row, at] = (cell["finish_reason"] == "length").fillna(False).to_numpy(dtype=bool)
        broken = np.flatnonzero(cell["error"].notna().to_numpy())
        kinds, messages = cell["error_type"].tolist(), cell["error"].tolist()
        self.errors |= {(row, int(at[i])): f"{kinds[i]}: {messages[i]}" for i in broken}
        thoughts = cell["reasoning"].fillna("").str.strip().tolist()
        self.reasonings |= {(row, int(at[i])): text for i, text in enumerate(thoughts) if text}
        if cell["answer"].notna().any():
            if self.texts is None:
                self.texts = np.full(self.shape, None, dtype=object)
            self.texts[row, at] = cell["answer"].astype(object).where(cell["answer"].notna(), None).to_numpy()
        if metrics:
            self._add_answers(row, cell, at, metrics)
        else:
            self._add_classes(row, cell, at, n_classes)

    def _add_answers(self, row: int, cell: pd.DataFrame, at: IntArray, metrics: Sequence[str]) -> None:
        values = cell[list(metrics)].to_numpy(dtype=float)
        if self.metric_values is None:
            self.metric_values = np.full((*self.shape, len(metrics)), np.nan)
        self.metric_values[row, at] = values
        self.value[row, at] = values[:, list(metrics).index(self.metric)]
        self.predicted[row, at] = np.where(np.isnan(values).any(axis=1), FAILED, 0)

    def _add_classes(self, row: int, cell: pd.DataFrame, at: IntArray, n_classes: int) -> None:
        predicted = cell["prediction"].to_numpy(dtype=float, na_value=np.nan)
        scored = np.isfinite(predicted)
        self.predicted[row, at] = np.where(scored, np.nan_to_num(predicted), FAILED).astype(np.int64)
        right = (predicted == cell["gold"].to_numpy(dtype=float)).astype(float)
        self.value[row, at] = np.where(scored, right, np.nan)
        self.confusions[row] = confusion(cell, n_classes)
        known = np.flatnonzero(cell["label_logprobs"].notna().to_numpy())
        self.no_label[row, at] = predicted == -1
        if len(known):
            if self.logprobs is None:
                self.logprobs = np.full((*self.shape, n_classes), np.nan)
            for place, logprobs in zip(at[known], cell["label_logprobs"].iloc[known], strict=True):
                self.logprobs[row, place, : len(logprobs)] = logprobs
            if cell["template"].notna().all():
                self.no_label[row, at[known]] = cell["greedy_prediction"].isna().to_numpy()[known]

    def grid(
        self,
        ids: list[str],
        fields: dict[str, list[str]],
        gold: IntArray,
        golds: list[list[str]],
        choices: list[list[str]] | None,
        clusters: IntArray | None,
    ) -> AnswerGrid:
        """What has been filled."""
        counted = np.isfinite(self.tokens)
        counts = np.maximum(counted.sum(axis=1), 1)
        sums = np.where(counted, self.tokens, 0).sum(axis=1)
        longest = np.where(counted, self.tokens, -1).max(axis=1)
        some = counted.any(axis=1)
        confusions = [self.confusions[i] for i in range(self.shape[0])] if self.metric == ACCURACY else None
        return AnswerGrid(
            ids, fields, gold, golds, self.value, self.predicted, self.logprobs, self.no_label, self.cut_off,
            self.texts, self.metric_values, self.errors, self.reasonings,
            np.where(some, sums / counts, np.nan), np.where(some, longest, np.nan), confusions,
            choices, clusters,
        )  # fmt: skip


def _samples(run_dirs: Sequence[str]) -> pd.DataFrame:
    """The samples of all runs, each once, in the order of the first run that has them."""
    frames: Sequence[pd.DataFrame] = [read_samples(RunStore(run_dir)).to_pandas() for run_dir in run_dirs]
    joined = pd.concat(frames, ignore_index=True)
    return joined.drop_duplicates("sample_id", ignore_index=True)
