"""Choices that each sample brings itself: how a prompt shows them, which text answers for each, how scores compare.

Knows one sample's choices and the wording around them; refuses to know tokenizers and models.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.errors import TemplateError, did_you_mean
from harness.core.escaping import one_line
from harness.core.spelling import first_alike, without_white_space_around
from harness.core.task import CONTENT_FREE, MOST_CHOICES, Sample

FIELD = "choices"
"""Of the query: where the choices stand."""
MARKERS = (
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "abcdefghijklmnopqrstuvwxyz",
    "①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳㉑㉒㉓㉔㉕㉖",
    "가나다라마바사아자차카타파하",
    "ㄱㄴㄷㄹㅁㅂㅅㅇㅈㅊㅋㅌㅍㅎ",
    tuple(str(number) for number in range(1, MOST_CHOICES + 1)),
)
"""Known sequences of marks, named by their first one."""
GIVEN, SHUFFLED = "given", "shuffled"
SUM = "sum"
SCORES: Mapping[str, Callable[[float, int, str], float]] = {
    SUM: lambda logprob, n_tokens, text: logprob,
    "per_token": lambda logprob, n_tokens, text: logprob / n_tokens,
    "per_character": lambda logprob, n_tokens, text: logprob / len(text),
    "per_byte": lambda logprob, n_tokens, text: logprob / len(text.encode()),
}
"""Ways to compare labels of different lengths: from a label's log-probability (nats), its tokens and its text, white
space of the template before it left out. `per_character` is `acc_norm` of lm-evaluation-harness."""


@dataclass(frozen=True)
class ChoiceWording:
    """How a template shows and answers choices; `{marker}` and `{choice}` stand in `shown` and `label`."""

    shown: str = "{marker}. {choice}"
    """One choice, where the query says `{choices}`."""
    between: str = "\n"
    """Text between two choices."""
    markers: tuple[str, ...] = tuple(MARKERS[0])
    """In the order of the places."""
    label: str = " {marker}"
    """What is scored as the prompt's continuation: the marker, the choice's own text, or both."""
    order: str | int = GIVEN
    """`given`, `shuffled` for each sample by `seed`, or by how many places choices are rotated."""
    seed: int = 0
    score: str = SUM
    """Of `SCORES`: what predicts."""

    @property
    def is_own_text(self) -> bool:
        """Whether labels hold the choices' own texts, so that they differ from sample to sample."""
        return "{choice}" in self.label

    def order_of(self, sample: Sample) -> list[int]:
        """Which choice stands at each place of the prompt."""
        places = list(range(len(sample.choices)))
        if self.order == SHUFFLED:
            # Inputs without content stand for a sample, and show what it shows.
            random.Random(f"choices:{self.seed}:{sample.id.removeprefix(CONTENT_FREE)}").shuffle(places)
        elif isinstance(self.order, int):
            places = [(place + self.order) % len(places) for place in places]
        return places

    def list_of(self, sample: Sample) -> str:
        """The choices as the query shows them."""
        lines = zip(self.markers, self.order_of(sample), strict=False)
        return self.between.join(_put(self.shown, marker, sample.choices[choice]) for marker, choice in lines)

    def labels_of(self, sample: Sample) -> tuple[str, ...]:
        """The text that is scored for each choice, in the order of the sample's choices."""
        return self._each(self.label, sample)

    def measured_of(self, sample: Sample) -> tuple[str, ...]:
        """The part of each label that has a length: without the white space that the template puts before it."""
        return self._each(self.label.lstrip(), sample)

    def choose(self, sample: Sample, logprobs: Sequence[float], token_counts: Sequence[int], score: str = "") -> int:
        """The choice with the highest score; the first of equals.

        Args:
            sample: whose choices they are.
            logprobs: of its labels, in their order; nats.
            token_counts: of its labels.
            score: of `SCORES`; empty: the template's own.
        """
        figure = SCORES[score or self.score]
        found = [figure(*label) for label in zip(logprobs, token_counts, self.measured_of(sample), strict=True)]
        return max(range(len(found)), key=lambda choice: (found[choice], -choice))

    def _each(self, pattern: str, sample: Sample) -> tuple[str, ...]:
        marked = dict(zip(self.order_of(sample), self.markers, strict=False))
        return tuple(_put(pattern, marked[place], choice) for place, choice in enumerate(sample.choices))


def _put(pattern: str, marker: str, choice: str) -> str:
    """A pattern with both texts in their places; braces of the choice are text."""
    parts = (part.replace("{marker}", marker) for part in pattern.split("{choice}"))
    return choice.join(parts)


_KEYS = ("shown", "between", "markers", "label", "order", "seed", "score")


def read_wording(where: str, spec: Any, query: str, most: int) -> ChoiceWording:
    """The key `choices` of a template.

    Args:
        where: names the template.
        spec: what the file holds there.
        query: of the template.
        most: choices that a sample may have.

    Raises:
        TemplateError: unknown key, wrong value, too few marks, or choices that the model never sees.
    """
    where = f"{where}: choices"
    if not isinstance(spec, dict):
        raise TemplateError(f"{where} is {one_line(repr(spec), 60)}, expected keys {', '.join(_KEYS)}")
    for key in spec:
        if key not in _KEYS:
            raise TemplateError(f"{where} has an unknown key '{one_line(str(key), 80)}'{did_you_mean(str(key), _KEYS)}")
    for key in ("shown", "between", "label"):
        if key in spec and not isinstance(spec[key], str):
            raise TemplateError(f"{where}.{key} is {one_line(repr(spec[key]), 60)}, expected text; put it in quotes")
    order, seed, score = spec.get("order", GIVEN), spec.get("seed", 0), spec.get("score", SUM)
    if order not in (GIVEN, SHUFFLED) and (not isinstance(order, int) or isinstance(order, bool) or order < 1):
        raise TemplateError(
            f"{where}.order is {one_line(repr(order), 60)}, expected given, shuffled, or by how many places to rotate"
        )
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TemplateError(f"{where}.seed is {one_line(repr(seed), 60)}, expected a whole number")
    if "seed" in spec and order != SHUFFLED:
        raise TemplateError(f"{where}.seed is for `order: shuffled`, but the order is {order}; drop seed")
    if score not in SCORES:
        raise TemplateError(f"{where}.score is '{one_line(str(score), 60)}'{did_you_mean(str(score), SCORES)}")
    texts = {key: spec[key] for key in ("shown", "between", "label") if key in spec}
    wording = ChoiceWording(
        **texts, markers=_markers(where, spec.get("markers", "A")), order=order, seed=seed, score=score
    )
    _check_shown(where, wording, query, most)
    return wording


def _check_shown(where: str, wording: ChoiceWording, query: str, most: int) -> None:
    listed = f"{{{FIELD}}}" in query
    if listed and "{choice}" not in wording.shown:
        raise TemplateError(f"{where}.shown is {wording.shown!r}, expected text with {{choice}}")
    if not wording.is_own_text and "{marker}" not in wording.label:
        raise TemplateError(f"{where}.label is {wording.label!r}, expected text with {{marker}}, {{choice}} or both")
    if not wording.is_own_text and not (listed and "{marker}" in wording.shown):
        raise TemplateError(
            f"{where}.label is {wording.label!r}, but the query does not show which choice has which marker; put "
            f"{{{FIELD}}} into the query, or {{choice}} into the label"
        )
    if "{marker}" in wording.shown * listed + wording.label and len(wording.markers) < most:
        raise TemplateError(f"{where}.markers has {len(wording.markers)} marks, but samples have up to {most} choices")


def _markers(where: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, list):
        texts = all(isinstance(mark, str) and mark for mark in given) and len(set(given)) == len(given)
        if not texts or first_alike(given, without_white_space_around):
            raise TemplateError(f"{where}.markers is {one_line(repr(given), 80)}, expected different texts")
        return tuple(given)
    known = {marks[0]: tuple(marks) for marks in MARKERS}
    if str(given) not in known:
        raise TemplateError(
            f"{where}.markers is {one_line(repr(given), 60)}, expected a list of texts, or the first mark of a known "
            f"sequence: {', '.join(known)}"
        )
    return known[str(given)]
