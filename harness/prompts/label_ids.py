"""Token ids of the labels as continuations of prompts.

A label has the ids that it has behind its prompt, which may not be those it has alone. Knows one template's
labels and where texts join; refuses to know samples.
"""

from __future__ import annotations

from harness.core.errors import TemplateError
from harness.prompts.literals import plain
from harness.prompts.templates import Template
from harness.prompts.tokenizing import PromptTokenizer


class LabelIds:
    """The labels of one template behind its prompts.

    Args:
        template: the wording.
        tokenizer: of the prompts.
        start: how many ids stand before a prompt's own text.
    """

    def __init__(self, template: Template, tokenizer: PromptTokenizer, start: int) -> None:
        self.template, self.tokenizer, self.start = template, tokenizer, start

    def ids(
        self,
        pieces: list[tuple[str, ...]],
        ids: list[list[int]],
        cuts: list[tuple[str, ...] | None],
        labels: list[tuple[str, ...]],
    ) -> list[tuple[tuple[int, ...], ...]]:
        """Ids of the labels behind each prompt: of the label where it joins, else of the prompt's last part with it.

        Each such part is tokenised once, in one call for all.

        Args:
            pieces: the segments of each prompt.
            ids: of each prompt.
            cuts: how each prompt was cut so that ids of its parts are those of the whole; None where it was not.
            labels: the texts of each prompt's labels.

        Raises:
            TemplateError: a label merges with the end of its context (unless the template's boundary is exact), or is
                empty in tokens.
        """
        tokenizer = self.tokenizer
        texts = list(dict.fromkeys(label for row in labels for label in row))
        by_itself = dict(zip(texts, map(tuple, tokenizer.inner_batch(texts)), strict=True))
        contexts: list[tuple[str, bool, int] | None] = []
        # Prompts of one sample end alike, whatever stands before.
        join: dict[tuple[str, ...], bool] = {}
        for segments, cut, found, row in zip(pieces, cuts, ids, labels, strict=True):
            alone = bool(segments[-1]) and not self.template.chat and all(by_itself[label] for label in row)
            edge = (self._edge(segments, cut), *row) if alone else ()
            if alone and edge not in join:
                join[edge] = all(tokenizer.joins(edge[0], label) for label in row)
            if alone and join[edge]:
                contexts.append(None)
            else:
                contexts.append(self._context(segments, cut, found, row))
        wanted = dict.fromkeys(
            (context[0] + label, context[1])
            for context, row in zip(contexts, labels, strict=True)
            if context is not None
            for label in row
        )
        starts, inners = ([text for text, inner in wanted if inner is kind] for kind in (False, True))
        known = {
            False: dict(zip(starts, tokenizer.whole_batch(starts), strict=True)),
            True: dict(zip(inners, tokenizer.inner_batch(inners), strict=True)),
        }
        result: list[tuple[tuple[int, ...], ...]] = []
        for segments, found, context, row in zip(pieces, ids, contexts, labels, strict=True):
            if context is None:
                result.append(tuple(by_itself[label] for label in row))
                continue
            text, inner, before = context
            behind = []
            for label in row:
                full = found[:before] + known[inner][text + label]
                merges = full[: len(found)] != found and not self.template.is_exact
                if merges or len(full) <= len(found):
                    raise TemplateError(self._merge_message(segments[-1], label, found, full))
                behind.append(tuple(full[len(found) :]))
            result.append(tuple(behind))
        return result

    def _edge(self, segments: tuple[str, ...], cut: tuple[str, ...] | None) -> str:
        """What stands before a label, as far as it may bear on the boundary."""
        if cut is not None:
            return cut[-1]
        return "".join(segments) if self.tokenizer.merges_whole_texts else segments[-1]

    def _context(
        self, segments: tuple[str, ...], cut: tuple[str, ...] | None, ids: list[int], labels: tuple[str, ...]
    ) -> tuple[str, bool, int]:
        """The end of a prompt that is tokenised together with a label.

        Returns:
            Its text, whether that stands inside the prompt and not at its start, and the number of ids before.
        """
        tokenizer = self.tokenizer
        if self.template.chat:
            if cut is None or len(cut) == 1:
                return segments[0], False, self.start
            return cut[-1], False, len(ids) - len(own_ids(cut, self.template, tokenizer))
        text = "".join(segments) if cut is None else cut[-1]
        place = tokenizer.last_split(text)
        before, end = text[:place], text[place:]
        if place and all(tokenizer.joins(before, end + label) for label in labels):
            return end, True, len(ids) - len(tokenizer.segment_ids([end], inner=True)[end])
        if cut is not None and len(cut) > 1 and all(tokenizer.joins(cut[-2], text + label) for label in labels):
            return text, True, len(ids) - len(own_ids(cut, self.template, tokenizer))
        return "".join(segments), False, self.start

    def _merge_message(self, query: str, label: str, context: list[int], full: list[int]) -> str:
        decode = self.tokenizer.decode_token
        at = next((i for i, (a, b) in enumerate(zip(context, full, strict=False)) if a != b), len(context) - 1)
        alone = [decode(t) for t in context[at:]]
        together = [decode(t) for t in full[at:]]
        if self.template.is_exact:
            return (
                f"template '{self.template.name}': the label {label!r} has no token beyond those of its prompt, which "
                f"ends in {plain(query)[-12:]!r}: tokens {alone} become {together}; nothing would be scored, and "
                "lm-evaluation-harness stops here too; begin the label with a space"
            )
        return (
            f"template '{self.template.name}': the label {label!r} merges with the end of its context "
            f"{plain(query)[-12:]!r}: tokens {alone} become {together}; "
            "end the query without white space and begin the label with a space"
        )


def own_ids(cut: tuple[str, ...], template: Template, tokenizer: PromptTokenizer) -> list[int]:
    """Ids of the last part of a prompt that was cut."""
    inner = len(cut) > 1 and not template.chat
    return tokenizer.segment_ids(cut[-1:], inner)[cut[-1]]
