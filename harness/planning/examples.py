"""Prompts that are kept in the run directory for people to read: one whole per model and template, and what stands
around the query in every cell.

Demonstrations come from the pool, which a run directory does not hold; without this file nobody
could see later what the model was shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.prompts.choices import SUM
from harness.prompts.literals import plain

if TYPE_CHECKING:
    from harness.core.task import Sample
    from harness.planning.preparation import ModelSetup, Prepared
    from harness.prompts.rendering import Renderer
    from harness.prompts.templates import Template

NAME = "prompts.json"
MOST_CHARACTERS = 4_000_000
"""Around queries, of a whole run; templates after that are left out."""
UNEQUAL = "labels have {} tokens: sums of log-probabilities tend to favour the shorter"


def prompt_examples(prepared: Prepared) -> dict[str, Any]:
    """Prompts of the first sample under the grid's first seed, at its smallest K above zero.

    Args:
        prepared: the run.

    Returns:
        `format`, and `prompts` with per prompt `model`, `template`, `description`, `k`, `seed`,
        `sample_id`, `text`, `n_tokens` and, per label, its tokens as text in `label_tokens`; where samples bring
        choices, what they are compared by in `score`. Then `around`, see `_around`, and `own`: per model and seed the
        samples that are among the demonstrations themselves, to the K up to which they are not; above it their
        prompts hold other demonstrations.
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
    around: list[dict[str, Any]] = []
    for setup in prepared.models:
        for name in config.grid.templates:
            if sum(len(one["before"]) for one in around) < MOST_CHARACTERS:
                around += [
                    {"model": setup.name, "template": name, "seed": seed, **one}
                    for seed in config.grid.seeds
                    for one in _around(prepared, prepared.renderer(setup, name, seed), seed)
                ]
    own = {
        setup.name: {str(seed): _own(prepared, setup, seed) for seed in config.grid.seeds} for setup in prepared.models
    }
    return {"format": 1, "prompts": prompts, "around": around, "own": own}


def _around(prepared: Prepared, renderer: Renderer, seed: int) -> list[dict[str, Any]]:
    """What stands around the query of a template under a seed, where all samples of a cell have that in common.

    Returns:
        Per text: `before`, `after`, `query` (the pattern), and `lengths`: K to how many characters of `before` its
        prompts have, as the demonstrations of a smaller K mostly begin those of a larger one.
    """
    alike = renderer.draw.policy.serves_all_alike
    sample = _typical(prepared, renderer, seed) if alike else prepared.data.samples[0]
    found: list[dict[str, Any]] = []
    for k in sorted((k for k in prepared.config.grid.k if alike or k == 0), reverse=True):
        text = plain("".join(renderer.segments(sample, seed, k)))
        query = plain(renderer.template.asked(renderer.tokenizer.literals.marked(sample))[0])
        start = text.rfind(query)
        if start < 0:
            continue  # a chat template that rewrites what it is given
        before, after = text[:start], text[start + len(query) :]
        pattern = renderer.template.query
        pattern = pattern.rstrip() if renderer.template.is_exact else pattern
        if not (found and found[-1]["after"] == after and found[-1]["before"].startswith(before)):
            found.append({"before": before, "after": after, "query": pattern, "lengths": {}})
        found[-1]["lengths"][str(k)] = len(before)
    return found


def _typical(prepared: Prepared, renderer: Renderer, seed: int) -> Sample:
    """A sample that is no demonstration of the seed's itself; the first where all are."""
    pool = renderer.draw.pool
    key = renderer.draw.policy.stream_key(seed, "")
    shown = renderer.draw.ranking(key, prepared.largest_k)
    samples = prepared.data.samples
    return next((sample for sample in samples if pool.of_one_origin(sample).isdisjoint(shown)), samples[0])


def _own(prepared: Prepared, setup: ModelSetup, seed: int) -> dict[str, int]:
    """Samples that are demonstrations of the seed's themselves: id to the place among them, from 0 on."""
    policy, pool = setup.draw.policy, setup.draw.pool
    if not policy.serves_all_alike:
        return {}
    ranking = setup.draw.ranking(policy.stream_key(seed, ""), prepared.largest_k)
    places = {index: place for place, index in enumerate(ranking)}
    found: dict[str, int] = {}
    for sample in prepared.data.samples:
        own = [places[index] for index in pool.of_one_origin(sample) if index in places]
        if own:
            found[sample.id] = min(own)
    return found


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
