"""One whole prompt per model and template, kept in the run directory for people to read.

Demonstrations come from the pool, which a run directory does not hold; without this file nobody
could see later what the model was shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.prompts.choices import SUM

if TYPE_CHECKING:
    from harness.planning.preparation import Prepared
    from harness.prompts.templates import Template

NAME = "prompts.json"
UNEQUAL = "labels have {} tokens: sums of log-probabilities tend to favour the shorter"


def prompt_examples(prepared: Prepared) -> dict[str, Any]:
    """Prompts of the first sample under the grid's first seed, at its smallest K above zero.

    Args:
        prepared: the run.

    Returns:
        `format`, and `prompts` with per prompt `model`, `template`, `description`, `k`, `seed`,
        `sample_id`, `text`, `n_tokens` and, per label, its tokens as text in `label_tokens`; where samples bring
        choices, what they are compared by in `score`.
    """
    config = prepared.config
    sample, seed = prepared.data.samples[0], config.grid.seeds[0]
    k = min((k for k in config.grid.k if k > 0), default=0)
    prompts = []
    for setup in prepared.models:
        decode = setup.tokenizer.decode_token
        for name in config.grid.templates:
            for prompt in prepared.renderer(setup, name, seed).prompts([sample], seed, [k]):
                prompts.append(
                    {
                        "model": setup.name,
                        "template": name,
                        "description": prepared.template(name).description,
                        "k": prompt.k,
                        "seed": seed,
                        "sample_id": sample.id,
                        "text": prompt.text,
                        "n_tokens": len(prompt.ids),
                        "label_tokens": [[decode(token) for token in ids] for ids in prompt.label_ids],
                        **_scored_by(prepared.template(name)),
                    }
                )
    return {"format": 1, "prompts": prompts}


def _scored_by(template: Template) -> dict[str, str]:
    return {} if template.choices is None else {"score": template.choices.score}


def label_notes(examples: Mapping[str, Any]) -> list[str]:
    """What a reader of a run's table should know of its labels: templates whose labels differ in their tokens' number.

    Args:
        examples: from `prompt_examples`.
    """
    notes: dict[str, None] = {}
    for prompt in examples["prompts"]:
        counts = [len(tokens) for tokens in prompt["label_tokens"]]
        if len(set(counts)) > 1 and prompt.get("score", SUM) == SUM:
            notes[f"- {prompt['template']}: {UNEQUAL.format(' and '.join(map(str, counts)))}"] = None
    return list(notes)
