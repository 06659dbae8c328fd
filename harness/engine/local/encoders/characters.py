"""A tokenizer whose tokens are the characters of some texts, for a model that begins with nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LONGEST = 160
"""Tokens of an input of a model that begins with nothing."""
MOST = 4000
"""Characters that have a token; the rarest share one."""


def character_tokenizer(texts: Sequence[str], longest: int) -> Any:
    """A tokenizer of the characters in some texts, the most frequent first.

    Args:
        texts: to be trained on.
        longest: tokens of an input.
    """
    counts = Counter(character for text in texts for character in text)
    ordered = sorted(counts, key=lambda character: (-counts[character], character))[:MOST]
    vocabulary = {token: place for place, token in enumerate((*SPECIAL, *ordered))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    marks = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=longest,
        pad_token="[PAD]",  # noqa: S106
        unk_token="[UNK]",  # noqa: S106
        cls_token="[CLS]",  # noqa: S106
        sep_token="[SEP]",  # noqa: S106
    )
