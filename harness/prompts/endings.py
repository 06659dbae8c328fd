"""Where an answer ends: at tokens that the tokenizer knows, and at texts that the configuration names.

A fine-tuned model may end its turns with a token that only its tokenizer or its chat template names,
while its configuration still has that of the base model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.prompts.chats import without_reasoning
from harness.prompts.tokenizing import PromptTokenizer

_UNFINISHED = "\ufffd"
"""Stands where bytes of a character are missing."""
_QUESTION, _ANSWER = "가", "나"


def turn_ends(tokenizer: Any) -> frozenset[int]:
    """The tokenizer's end token, and the special token that follows an answer in its chat template.

    Args:
        tokenizer: a Hugging Face tokenizer.
    """
    found = {tokenizer.eos_token_id, _after_answer(tokenizer)}
    return frozenset(token for token in found if isinstance(token, int))


def _after_answer(tokenizer: Any) -> int | None:
    """The first token after an answer in a chat, where that is a special one."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    messages = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:
        # Templates may refuse these messages; what they say of it belongs to the prompts.
        return None
    _, answer, after = text.rpartition(_ANSWER)
    if not answer:
        return None
    ids = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"]
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return int(ids[0]) if ids and ids[0] in special else None


class StopTexts:
    """Whether generated tokens hold a stop text. They are decoded only when the last of them can complete one.

    Args:
        tokenizer: that decodes.
        texts: none empty.
        after_reasoning_of: header of a prompt whose answer is thought about first, so that stop texts count after that
            alone.
    """

    def __init__(self, tokenizer: PromptTokenizer, texts: Sequence[str], after_reasoning_of: str | None = None) -> None:
        self.tokenizer, self.after_reasoning_of = tokenizer, after_reasoning_of
        self.texts = tuple(texts)
        self._last = {text[-1] for text in texts}
        # A token by itself may lose the blank before it, and cleaning moves characters of other tokens.
        cleans = bool(getattr(tokenizer.tokenizer, "clean_up_tokenization_spaces", False))
        self._always = cleans or " " in self._last
        self._completes: dict[int, bool] = {}

    def __call__(self, generated: Sequence[int]) -> bool:
        """Asked after every token, with all that were generated."""
        if not self.texts or not (self._always or self._can_complete(generated[-1])):
            return False
        text = self.tokenizer.decode(generated)
        if self.after_reasoning_of is not None:
            text = without_reasoning(text, self.after_reasoning_of)
        return any(mark in text for mark in self.texts)

    def _can_complete(self, token: int) -> bool:
        found = self._completes.get(token)
        if found is None:
            text = self.tokenizer.decode_token(token)
            found = self._completes[token] = _UNFINISHED in text or any(last in text for last in self._last)
        return found
