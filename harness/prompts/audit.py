"""The boundary audit: where label tokens begin, and whether that can be trusted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.core.errors import TemplateError
from harness.core.task import Sample
from harness.prompts.prompt import Prompt
from harness.prompts.rendering import Renderer

AUDITED = 200
"""Samples whose label boundary is checked; replicas check every prompt again as they render it."""


@dataclass(frozen=True)
class TemplateAudit:
    """What a template and a tokenizer make of each other."""

    model: str
    template: str
    label_tokens: tuple[tuple[str, ...], ...]
    """Each label's tokens as text."""
    shared_first_token: bool
    """Whether two labels begin with the same token, so that later tokens decide."""
    start: str
    """What prompts begin with, and what brings it."""
    samples_checked: int
    joined_by_segment: float
    """Share of the checked prompts whose segments provably tokenise as the whole text does."""
    own_labels: bool = False
    """Whether labels are texts of each sample; `label_tokens` are the first one's."""
    nested: int = 0
    """Checked samples of which one label begins, in tokens, with another."""
    merged: int | None = None
    """Labels of checked samples that merge with the end of their prompts; None where the template refuses them."""
    moved: str = ""
    """White space that the first sample's query ends with, scored with its labels."""


def audit_template(renderer: Renderer, model: str, samples: Sequence[Sample]) -> TemplateAudit:
    """Check label boundaries on the first samples, without demonstrations.

    Raises:
        TemplateError: a label merges with the end of its context.
    """
    tokenizer = renderer.tokenizer
    checked = samples[:AUDITED]
    prompts = renderer.prompts(checked, seed=0, ks=[0])
    labels = prompts[0].label_ids
    firsts = [ids[0] for ids in labels]
    joined = sum(renderer.joinable(prompt.segments) is not None for prompt in prompts)
    return TemplateAudit(
        model,
        renderer.template.name,
        tuple(tuple(tokenizer.decode_token(t) for t in ids) for ids in labels),
        len(set(firsts)) < len(firsts),
        _start(renderer, prompts[0].ids),
        len(prompts),
        joined / len(prompts),
        renderer.template.choices is not None and renderer.template.choices.is_own_text,
        sum(any(_nested(prompt.label_ids)) for prompt in prompts),
        _merged(renderer, prompts) if renderer.template.is_exact else None,
        renderer.template.render_query(checked[0])[len(renderer.template.asked(checked[0])[0]) :],
    )


def _merged(renderer: Renderer, prompts: Sequence[Prompt]) -> int:
    """Labels whose prompts have other tokens with them than without."""
    texts = [(prompt, "".join(prompt.segments) + label) for prompt in prompts for label in prompt.labels]
    together = renderer.tokenizer.whole_batch([text for _, text in texts])
    own = [prompt.ids[len(renderer.start) :] for prompt, _ in texts]
    return sum(ids[: len(alone)] != alone for ids, alone in zip(together, own, strict=True))


def check_labels(renderer: Renderer, sample: Sample) -> None:
    """Refuse labels of which one is the beginning of another: its log-probability is never the lower one.

    Where the labels hold texts of the data, it is the data's own and is counted by `audit_template`.

    Raises:
        TemplateError: naming both labels; or as `Renderer.prompts`.
    """
    prompt = renderer.prompts([sample], seed=0, ks=[0])[0]
    labels, ids = prompt.labels, prompt.label_ids
    if renderer.template.choices is not None and renderer.template.choices.is_own_text:
        return
    for short, long in _nested(ids):
        what = "has the tokens of" if ids[long] == ids[short] else "begins, in tokens, with"
        raise TemplateError(
            f"template '{renderer.template.name}': the label {labels[long]!r} {what} the label {labels[short]!r}, "
            "which therefore never has the lower log-probability, whatever the model says; choose labels of which "
            "none begins another, or end all of them alike, such as with a newline"
        )


def _nested(labels: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Places of labels of which the second begins with the first."""
    for short, long in itertools.permutations(range(len(labels)), 2):
        if labels[long][: len(labels[short])] == labels[short]:
            yield short, long


def _start(renderer: Renderer, ids: Sequence[int]) -> str:
    tokenizer = renderer.tokenizer
    known = [getattr(tokenizer.tokenizer, "bos_token_id", None)]
    bos = tokenizer.bos or [token for token in known if token is not None]
    name = "".join(map(tokenizer.decode_token, bos))
    template = "chat template" if renderer.template.chat else "template"
    if not bos:
        return "no start token is known"
    if list(ids[: len(bos)]) != bos:
        adds = "which the tokenizer adds to plain texts" if tokenizer.bos else "which the tokenizer does not add"
        return f"begins without {name}, {adds}"
    times = next((n for n in range(len(ids)) if ids[n * len(bos) : (n + 1) * len(bos)] != bos), 1)
    more = f", {times} times" if times > 1 else ""
    return f"begins with {name}, which the {'tokenizer adds' if renderer.start else f'{template} writes'}{more}"
