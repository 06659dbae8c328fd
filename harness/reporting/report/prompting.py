"""The prompts of all cells for the page: what stands around a sample's query, each text once.

Knows `prompts.json` and wordings; refuses to know which samples are shown. Where a run kept nothing, a plain prompt
without demonstrations still follows from its wording.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from harness.core.task import Sample
from harness.prompts.choices import FIELD, ChoiceWording
from harness.reporting.report.gathering import ReportData, RunFacts

MOST_CHARACTERS = 1_000_000
"""Before queries, of a whole page; cells after that have no prompt."""
NOT_KEPT = (
    "Some prompts are not shown: their demonstrations differ from sample to sample, were not kept by the run, or are "
    "too long for this file. The command harness prompts prints them."
)


@dataclass(frozen=True)
class Around:
    """What stands around the query of a cell."""

    before: str
    after: str
    query: str
    """A pattern with the sample's fields in braces."""

    @property
    def text(self) -> str:
        """The prompt with the fields' names in place of a sample."""
        return self.before + self.query + self.after


def around_of(run: RunFacts, cell: Mapping[Any, Any]) -> Around | None:
    """What stands around the query of a cell; None for references, and where the run does not say."""
    if pd.isna(cell["template"]):
        return None
    k, seed = int(cell["k"]), int(cell["cell_seed"])
    for one in run.around:
        is_own = (one["model"], one["template"], one["seed"]) == (cell["model"], cell["template"], seed)
        if is_own and str(k) in one["lengths"]:
            return Around(one["before"][: one["lengths"][str(k)]], one["after"], one["query"])
    wording = run.manifest["identity"]["templates"].get(cell["template"])
    if k > 0 or wording is None or wording.get("chat"):
        return None
    return Around(wording["prefix"], "", wording["query"])


@dataclass(frozen=True)
class Prompts:
    """The prompts of a page."""

    data: ReportData

    @cached_property
    def cells(self) -> list[Around | None]:
        """Per cell, in the order of `ReportData.cells`; None where the page has no prompt."""
        runs = {run.name: run for run in self.data.runs}
        found: list[Around | None] = []
        kept: set[str] = set()
        used = 0
        for cell in self.data.cells.to_dict("records"):
            around = around_of(runs[str(cell["run"])], cell)
            if around is not None and not any(text.startswith(around.before) for text in kept):
                used += len(around.before)
                kept.add(around.before)
            found.append(around if used <= MOST_CHARACTERS else None)
        return found

    @property
    def document(self) -> dict[str, Any]:
        """For the page's script: texts once, and per cell their places and the length of the one before the query."""
        befores: dict[str, int] = {}
        others: dict[str, int] = {}
        rows: list[list[int] | None] = []
        known = [around for around in self.cells if around is not None]
        for before in sorted({around.before for around in known}, key=lambda text: (-len(text), text)):
            if not any(longer.startswith(before) for longer in befores):
                befores[before] = len(befores)
        for around in self.cells:
            if around is None:
                rows.append(None)
                continue
            place = next(place for text, place in befores.items() if text.startswith(around.before))
            query, after = (others.setdefault(text, len(others)) for text in (around.query, around.after))
            # The page's script counts in units of UTF-16.
            rows.append([place, len(around.before.encode("utf-16-le")) // 2, query, after])
        lacks = any(
            around is None and not pd.isna(template)
            for around, template in zip(self.cells, self.data.cells["template"], strict=True)
        )
        return {"befores": list(befores), "texts": list(others), "cells": rows, "note": NOT_KEPT if lacks else ""}

    def own_of(self, sample_id: str) -> list[int]:
        """Cells whose prompt for a sample holds another demonstration in place of the sample's own text."""
        return [row for row, places in enumerate(self._own) if (place := places.get(sample_id)) is not None
                and place < self._ks[row]]  # fmt: skip

    @cached_property
    def _own(self) -> list[Mapping[str, int]]:
        runs = {run.name: run for run in self.data.runs}
        cells = self.data.cells.to_dict("records")
        return [runs[str(c["run"])].own.get(str(c["model"]), {}).get(str(c["cell_seed"]), {}) for c in cells]

    @cached_property
    def _ks(self) -> list[int]:
        return [0 if pd.isna(k) or pd.isna(t) else int(k) for k, t in self.data.cells[["k", "template"]].to_numpy()]

    @cached_property
    def wordings(self) -> dict[str, ChoiceWording]:
        """Queries to how they show the choices of a sample, where samples bring their own."""
        found: dict[str, ChoiceWording] = {}
        for run in self.data.runs:
            for wording in run.manifest["identity"]["templates"].values():
                if choices := wording.get("choices"):
                    shown = ChoiceWording(**{**choices, "markers": tuple(choices["markers"])})
                    found |= {wording["query"]: shown, wording["query"].rstrip(): shown}
        return found

    def choices_of(self, sample_id: str, choices: list[str]) -> dict[str, str]:
        """Query to the text of the field `choices` for a sample."""
        sample = Sample(sample_id, {}, choices=tuple(choices))
        return {query: shown.list_of(sample) for query, shown in self.wordings.items() if f"{{{FIELD}}}" in query}
