"""Figures of cells whose samples bring choices: accuracy by each score, and how answers spread over the places.

Knows records, samples and wordings; every score is worked out from stored label log-probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.core.task import CONTENT_FREE, Sample
from harness.prompts.choices import SCORES, ChoiceWording
from harness.results import manifest as manifests
from harness.results.records import load_records
from harness.results.samples import CHOICES, read_samples
from harness.results.store import RunStore

CHOICE_COLUMNS = ["sample_id", "label_logprobs", "label_token_counts"]
"""What figures of choices need of the records, besides `harness.analysis.cells.COLUMNS`."""
PMI = "pmi"
PREFIX, PLACE = "accuracy_", "answers_at_"
"""How figures begin: accuracy by a score, and the share of answers at a place of the prompt, counted from 1."""
RIGHT, FOUND = "right_at_", "found_at_"
"""The share of right answers at a place, and how many of these were found."""
BIAS = "position_bias"
"""Total variation between the places of the answers and those of the right answers: the least share of answers that
stand elsewhere than the right ones would have them."""
CellKey = tuple[str, str, int, int]


class ChoicesOfRun:
    """What the records of a run do not say themselves of its choices.

    Args:
        choices: sample id to its choices.
        wordings: template to how it shows and answers choices.
        domain: per cell and sample, label log-probabilities behind the prompt without the sample's texts.
        unknown: by model and template, the scores that the engine says too little for.
    """

    def __init__(
        self,
        choices: Mapping[str, Sequence[str]],
        wordings: Mapping[str, ChoiceWording],
        domain: Mapping[CellKey, Mapping[str, Sequence[float]]],
        unknown: Mapping[tuple[str, str], Sequence[str]],
    ) -> None:
        self.samples = {name: Sample(name, {}, choices=tuple(texts)) for name, texts in choices.items()}
        self.wordings, self.domain, self.unknown = wordings, domain, unknown
        self.most = max(len(texts) for texts in choices.values())

    def figures(self, cell: pd.DataFrame) -> dict[str, float]:
        """Figures of one cell: accuracy by each of `SCORES`, by PMI where it was scored for, and the places.

        Args:
            cell: its records; failed samples are left out.
        """
        first = cell.iloc[0]
        if pd.isna(first["template"]):
            return {}  # a reference shows nobody any choices
        wording = self.wordings[str(first["template"])]
        scored = cell[cell["prediction"].notna()]
        samples = [self.samples[str(name)] for name in scored["sample_id"]]
        golds, predictions = (scored[name].to_numpy(dtype=np.int64) for name in ("gold", "prediction"))
        right: dict[str, list[bool]] = {}
        key = (str(first["model"]), str(first["template"]), int(first["k"]), int(first["seed"]))
        domain = self.domain.get(key, {})
        scores = [name for name in SCORES if name not in self.unknown.get(key[:2], ())]
        columns = zip(samples, golds, scored["label_logprobs"], scored["label_token_counts"], strict=True)
        for sample, gold, logprobs, counts in columns if scored["label_logprobs"].notna().all() else ():
            for score in scores:
                right.setdefault(score, []).append(wording.choose(sample, logprobs, counts, score) == gold)
            if sample.id in domain:
                pmi = np.asarray(logprobs) - np.asarray(domain[sample.id])
                right.setdefault(PMI, []).append(int(pmi.argmax()) == gold)
        # An accuracy over some of the samples would stand beside those over all.
        found = {PREFIX + name: float(np.mean(hits)) for name, hits in right.items() if len(hits) == len(scored)}
        return found | self._places(wording, samples, golds.tolist(), predictions.tolist())

    def _places(
        self, wording: ChoiceWording, samples: Sequence[Sample], golds: Sequence[int], predictions: Sequence[int]
    ) -> dict[str, float]:
        answered, right, found = np.zeros(self.most), np.zeros(self.most), np.zeros(self.most)
        for sample, gold, prediction in zip(samples, golds, predictions, strict=True):
            if prediction >= 0:
                order = wording.order_of(sample)
                answered[order.index(prediction)] += 1
                right[order.index(gold)] += 1
                found[order.index(gold)] += prediction == gold
        if not answered.sum():
            return {}
        shares = answered / answered.sum()
        with np.errstate(invalid="ignore"):
            columns = {PLACE: shares, RIGHT: right / right.sum(), FOUND: found / right}
        named = {f"{name}{place}": float(x) for name, own in columns.items() for place, x in enumerate(own, 1)}
        return named | {BIAS: float(np.abs(shares - columns[RIGHT]).sum() / 2)}


def choices_of_run(run_dir: str, manifest: Mapping[str, Any]) -> ChoicesOfRun | None:
    """The choices of a run; None where all samples have the same classes.

    Raises:
        RunDirError: a damaged run directory.
    """
    if not manifest.get("choices"):
        return None
    store = RunStore(run_dir)
    identity = manifests.read_manifest(store, "identity")["identity"]
    wordings = {
        name: ChoiceWording(**{**wording["choices"], "markers": tuple(wording["choices"]["markers"])})
        for name, wording in identity["templates"].items()
    }
    table = read_samples(store, ["sample_id", CHOICES])
    choices = dict(zip(table["sample_id"].to_pylist(), table[CHOICES].to_pylist(), strict=True))
    engines = manifest.get("engines") or {}
    unknown = {
        (model, name): (facts.get("cannot_compare_by") or {}).get("chat" if wording.get("chat") else "plain", ())
        for model, facts in engines.items()
        for name, wording in identity["templates"].items()
    }
    return ChoicesOfRun(choices, wordings, _domain(run_dir, store, manifest), unknown)


def _domain(run_dir: str, store: RunStore, manifest: Mapping[str, Any]) -> dict[CellKey, dict[str, Sequence[float]]]:
    """What the run scored for PMI (`scoring.calibration`)."""
    units = set(manifest.get("calibration_units", ())) & store.part_ids()
    found: dict[CellKey, dict[str, Sequence[float]]] = {}
    if units:
        names = ["model", "template", "k", "seed", "sample_id", "label_logprobs"]
        records = load_records(run_dir, names, units).dropna(subset="label_logprobs")
        for model, template, k, seed, sample, logprobs in records[names].itertuples(index=False):
            key = (str(model), str(template), int(k), int(seed))
            found.setdefault(key, {})[str(sample).removeprefix(CONTENT_FREE)] = logprobs
    return found
