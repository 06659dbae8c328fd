"""Tokens at which an answer ends, as a model's tokenizer knows them.

A fine-tuned model may end its turns with a token that only its tokenizer or its chat template names,
while its configuration still has that of the base model.
"""

from __future__ import annotations

from typing import Any

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
