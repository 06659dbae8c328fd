"""Reads answers off contexts with a checkpoint for extractive question answering.

A context that is too long is read in windows that share `stride` tokens. As in the `question-answering` pipeline of
transformers 4, start and end of a span have probabilities within their window, where the token that begins the input
stands for no answer; each window has its likeliest spans, and what several windows say of one text is added up. Spans
are whole tokens, not whole words: Korean joins particles to words, and they are no part of an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForQuestionAnswering

from harness.config.schema import ReferenceEntry
from harness.core.errors import ContextError, EngineError, ModelError, NotFiniteError
from harness.engine.local.encoders.checkpoints import Checkpoint, facts_of, open_checkpoint
from harness.engine.protocol import OpenSettings
from harness.engine.reading import LoadedReader, Question, Span, Spans

BATCH = 16
"""Windows of one forward pass."""
WINDOW = 384
"""Tokens of a question with a window of its context, unless the entry or the model says fewer."""
N_BEST = 20
"""Spans of one window that count."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """A question with a part of its context, in tokens."""

    question: int
    """Its place among those asked."""
    inputs: dict[str, list[int]]
    in_context: npt.NDArray[np.bool_]
    """`(n_tokens,)`."""
    no_answer: npt.NDArray[np.bool_]
    """`(n_tokens,)`, the token that stands for an answer that is not here, where the tokenizer has one."""
    offsets: Sequence[tuple[int, int]]
    """Of each token in its text, in characters."""


class EncoderReader(LoadedReader):
    """A loaded encoder that marks where an answer starts and ends.

    Args:
        checkpoint: loaded.
        stride: tokens that neighbouring windows share.
        most_tokens: of an answer.
    """

    def __init__(self, checkpoint: Checkpoint, stride: int, most_tokens: int) -> None:
        self.model, self.tokenizer = checkpoint.model, checkpoint.tokenizer
        self.longest = min(checkpoint.longest or WINDOW, WINDOW)
        self.stride, self.most_tokens = stride, most_tokens
        self.facts = facts_of(self.model)

    @torch.inference_mode()
    def read(self, questions: Sequence[Question]) -> Spans:
        """See `LoadedReader.read`."""
        windows = [window for place, one in enumerate(questions) for window in self._windows(place, one)]
        lengths = np.array([len(window.offsets) for window in windows])
        order, computed = np.argsort(-lengths, kind="stable"), 0
        found: list[list[Span]] = [[] for _ in windows]
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = self.tokenizer.pad([windows[row].inputs for row in rows], return_tensors="pt")
            output = self.model(**batch.to(self.model.device))
            computed += int(batch["input_ids"].numel())
            logits = torch.stack([output.start_logits, output.end_logits], 1).double().cpu().numpy()
            real = batch["attention_mask"].cpu().numpy().astype(bool)
            for row, own, mask in zip(rows, logits, real, strict=True):
                window = windows[row]
                found[row] = self._spans(window, own[:, mask], questions[window.question].context)
        merged: list[list[Span]] = [[] for _ in questions]
        n_tokens = np.zeros(len(questions), dtype=np.int64)
        for window, spans, length in zip(windows, found, lengths, strict=True):
            merged[window.question] += spans
            n_tokens[window.question] += length
        return Spans([_added_up(spans) for spans in merged], n_tokens, computed)

    def _windows(self, place: int, question: Question) -> Iterator[Window]:
        """The windows of one context, in its order."""
        first = self.tokenizer.padding_side == "right"
        texts = (question.text, question.context) if first else (question.context, question.text)
        room = self.longest - len(self.tokenizer(question.text, "")["input_ids"])
        if room <= self.stride:
            raise ContextError(
                f"the question leaves {max(room, 0)} of {self.longest} tokens for its context, expected more than "
                f"the stride of {self.stride}"
            )
        found = self.tokenizer(
            *texts,
            truncation="only_second" if first else "only_first",
            max_length=self.longest,
            stride=self.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        names = [name for name in self.tokenizer.model_input_names if name in found]
        for at in range(len(found["input_ids"])):
            inside = np.array([number == int(first) for number in found.sequence_ids(at)])
            inputs = {name: found[name][at] for name in names}
            if not inside.any():
                raise EngineError("the context has no tokens in which an answer could be")
            outside = np.array(found["input_ids"][at]) == self.tokenizer.cls_token_id
            yield Window(place, inputs, inside, outside & ~inside, found["offset_mapping"][at])

    def _spans(self, window: Window, logits: Floats, context: str) -> list[Span]:
        """The likeliest spans of one window.

        Args:
            window: whose they are.
            logits: (start and end, tokens).
            context: of the question.
        """
        known = logits[:, window.in_context | window.no_answer]
        if not np.isfinite(known).all():
            raise NotFiniteError(f"logits are NaN or infinite in {self.facts.dtype}; set its dtype to float32")
        places = np.flatnonzero(window.in_context)
        totals = np.logaddexp.reduce(known, axis=1, keepdims=True)
        starts, ends = np.exp(logits[:, places] - totals)
        valid = np.tril(np.triu(np.ones((len(places), len(places)), dtype=bool)), self.most_tokens - 1)
        scores = np.where(valid, np.outer(starts, ends), -1.0).ravel()
        likely = np.argpartition(-scores, min(N_BEST, len(scores) - 1))[:N_BEST]
        spans = []
        for place in sorted(likely[scores[likely] >= 0], key=lambda place: (-scores[place], place)):
            first, last = divmod(int(place), len(places))
            begin, stop = window.offsets[places[first]][0], window.offsets[places[last]][1]
            spans.append(Span(begin, stop, context[begin:stop], float(scores[place])))
        return spans


def _added_up(spans: Sequence[Span]) -> list[Span]:
    """One span per text, whatever its case, the likeliest first."""
    by_text: dict[str, Span] = {}
    for one in spans:
        known = by_text.get(one.text.lower())
        by_text[one.text.lower()] = (
            one if known is None else Span(known.start, known.end, known.text, known.score + one.score)
        )
    return sorted(by_text.values(), key=lambda span: -span.score)


def open_reader(entry: ReferenceEntry, settings: OpenSettings) -> EncoderReader:
    """Load a checkpoint; see `open_checkpoint`.

    Raises:
        ModelError: it does not load, a part of it would be random, or its windows are no longer than the stride.
    """
    reader = EncoderReader(
        open_checkpoint(entry, settings, AutoModelForQuestionAnswering), entry.stride, entry.max_answer_tokens
    )
    if entry.stride >= reader.longest:
        raise ModelError(
            f"reference '{entry.name}': its stride is {entry.stride}, expected less than the {reader.longest} tokens "
            "of a window"
        )
    return reader
