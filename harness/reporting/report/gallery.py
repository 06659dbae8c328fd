"""One prompt per template, from what a run directory stores.

`prompts.json` has whole prompts with demonstrations. Without it the wording in the manifest and the
first sample give the prompt without demonstrations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.cells import of_prompts
from harness.prompts.template_yaml import template_yaml
from harness.prompts.templates import Template, fill
from harness.reporting.report.gathering import ReportData, RunFacts
from harness.reporting.report.wording import count, last_part

ABSENT = (
    "This run directory has no prompts.json, so demonstrations are not shown: the prompts above are K=0, "
    "from the wording in the manifest and the first sample."
)
_OF_CHOICES = ("shown", "label", "order", "score")
CHAT = "A chat: the model's tokenizer writes it, so it is not shown without prompts.json."


@dataclass(frozen=True)
class Example:
    """One template and a prompt of it."""

    title: str
    prompt: str
    """As the model gets it; empty when it cannot be shown."""
    about: str
    """Which K, seed and sample, and its tokens."""
    tokens: tuple[tuple[str, str, str], ...]
    """K, mean and longest prompt in tokens, over the run's samples."""
    parts: tuple[tuple[str, str], ...]
    """Parts of the wording that are not empty: name, text."""
    yaml: str
    """The template as the entry of a templates file."""


@dataclass(frozen=True)
class Gallery:
    """The prompts of a report."""

    examples: tuple[Example, ...]
    note: str
    """What is missing; empty when all prompts are whole."""


def gallery(data: ReportData) -> Gallery:
    """One example per (run, model, template)."""
    examples: list[Example] = []
    for run in data.runs:
        for model in dict.fromkeys(of_prompts(run.cells)["model"]):
            for template, wording in run.manifest["identity"]["templates"].items():
                examples.append(_example(data, run, str(model), template, wording))
    return Gallery(tuple(examples), ABSENT if any(run.prompts is None for run in data.runs) else "")


def _example(data: ReportData, run: RunFacts, model: str, template: str, wording: Mapping[str, Any]) -> Example:
    own = data.cells[
        (data.cells["run"] == run.name) & (data.cells["model"] == model) & (data.cells["template"] == template)
    ].sort_values(["k", "cell_seed"])
    tokens = []
    for k, cells in own.groupby("k"):
        longest = max(data.answers.longest_prompt[cells.index].tolist(), default=math.nan)
        tokens.append((str(k), count(float(cells["tokens"].mean())), count(longest)))
    found = [p for p in run.prompts or () if p["template"] == template and p["model"] == model]
    if found:
        entry = found[0]
        prompt = str(entry["text"])
        drawn = f", seed {entry['seed']}" if entry["k"] else ""
        about = f"K={entry['k']}{drawn}, sample {entry['sample_id']}: {count(entry['n_tokens'])} tokens"
        split = [tokens for tokens in entry["label_tokens"] if len(tokens) > 1]
        about += f"; labels of several tokens: {', '.join(' + '.join(tokens) for tokens in split)}" if split else ""
    elif wording.get("chat"):
        prompt, about = "", CHAT
    else:
        fields = {name: texts[0] for name, texts in data.answers.fields.items()}
        prompt = wording["prefix"] + fill(wording["query"], {**dict.fromkeys(_fields(wording), "?"), **fields})
        about = f"K=0, sample {data.answers.sample_ids[0]}"
    several = [last_part(name) for name, many in ((run.name, len(data.runs) > 1), (model, _many_models(data))) if many]
    return Example(
        " · ".join([*several, template]),
        prompt,
        about,
        tuple(tokens),
        _parts(wording),
        template_yaml(template, wording),
    )


def _fields(wording: Mapping[str, Any]) -> set[str]:
    """What the wording names; in a damaged run directory, not all of it is a field of the samples."""
    return Template("", wording["query"]).field_names()


def _many_models(data: ReportData) -> bool:
    return data.cells["model"].nunique() > 1


def _parts(wording: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    parts: list[tuple[str, str]] = []
    for name in ("prefix", "query", "labels", "answer", "separators", "chat"):
        value = wording.get(name)
        texts: Sequence[str] = [value] if isinstance(value, str) else list(value or [])
        shown = texts[:1] if name == "separators" and len(set(texts)) == 1 else texts
        if any(shown):
            parts.append((name, "  |  ".join(_visible(text) for text in shown)))
    choices = wording.get("choices") or {}
    parts += [(f"choices: {name}", _visible(str(choices[name]))) for name in _OF_CHOICES if name in choices]
    return tuple(parts)


def _visible(text: str) -> str:
    """White space that matters made visible."""
    start = len(text) - len(text.lstrip(" "))
    return "␣" * start + text[start:].replace("\n", "⏎\n").rstrip("\n")
