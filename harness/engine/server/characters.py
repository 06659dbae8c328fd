"""Stands in for a tokenizer that is not known: each character is a token.

Usual tokenizers take no more tokens than that for Korean and English, so that what fits in characters fits.
"""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

_RANGES = (
    (0x09, 0x0A), (0x0D, 0x0D), (0x20, 0x7E), (0xA0, 0x17F), (0x370, 0x3FF), (0x400, 0x4FF), (0x1100, 0x11FF),
    (0x2000, 0x22FF), (0x2500, 0x27BF), (0x3000, 0x30FF), (0x3130, 0x318F), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
    (0xFF00, 0xFFEF),
)  # fmt: skip
"""Characters with a token of their own; others have one per byte."""
_CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
"""What chats look like in `harness prompts`; a server gets the messages themselves."""


@cache
def character_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose ids say every text as it is, without special tokens."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    for first, last in _RANGES:
        for code in range(first, last + 1):
            vocabulary[chr(code)] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = _CHAT
    return tokenizer
