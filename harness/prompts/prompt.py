"""One prompt: its text, its token ids, its labels, and what it may share with others."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.task import Sample
from harness.prompts.choices import ChoiceWording
from harness.prompts.literals import plain


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of one (cell, sample)."""

    sample: Sample
    k: int
    segments: tuple[str, ...]
    """Prefix, demonstrations, query; of a chat the whole. The prompt's text is their concatenation, without
    the marks of special tokens that are text (see `literals`)."""
    ids: list[int]
    label_ids: tuple[tuple[int, ...], ...]
    """Token ids of each label as the prompt's continuation; none where answers are generated."""
    fork: int
    """How many of the first ids are not the sample's own: demonstrations, and what every query begins
    with. Depends on this prompt alone."""
    labels: tuple[str, ...] = ()
    """The text of each label, in the order of `label_ids`."""
    choices: ChoiceWording | None = None
    """How the labels of a sample that brings choices are scored."""
    messages: tuple[dict[str, str], ...] | None = None
    """The chat that the text renders; None of plain text."""
    thinks: bool = False
    """Whether the model's reasoning stands before its answer."""

    @property
    def text(self) -> str:
        """The whole text, without the tokens that the tokenizer adds by itself."""
        return plain("".join(self.segments))

    @property
    def header(self) -> str:
        """Of a chat what its template writes behind the last message, whose text may spell anything; else all."""
        text = self.text
        return text.rpartition(self.messages[-1]["content"].strip())[2] if self.messages else text

    @property
    def family(self) -> str:
        """Prompts of one family are computed together: those of one sample."""
        return self.sample.id

    @property
    def trunk(self) -> int | None:
        """How many of the first ids other families may share.

        None where samples come in clusters, such as questions on one passage, or bring choices, as questions of
        examinations do: those share more than what every query begins with, and the engine may look for it by itself.
        """
        return None if self.sample.cluster or self.sample.choices else self.fork
