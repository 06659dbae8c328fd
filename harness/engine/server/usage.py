"""How many tokens an answer says that it took, in each dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_TOKENS = 2**40
"""Of one request; a larger number is none that is to be believed."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one request.

    Attributes:
        prompt: tokens read.
        cached: of these, not computed again.
        generated: tokens written.
    """

    prompt: int
    cached: int
    generated: int

    @property
    def computed(self) -> int:
        """Tokens that went through the model."""
        return self.prompt - self.cached + self.generated


def usage_of(answer: Any) -> Usage | None:
    """What an answer says; None where it says nothing."""
    if not isinstance(answer, Mapping):
        return None
    usage, meta = answer.get("usage"), answer.get("meta_info")
    if isinstance(usage, Mapping):
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
        return _usage(usage.get("prompt_tokens"), cached, usage.get("completion_tokens"))
    if isinstance(meta, Mapping):
        return _usage(meta.get("prompt_tokens"), meta.get("cached_tokens"), meta.get("completion_tokens"))
    if "tokens_evaluated" in answer:
        timings = answer.get("timings")
        cached = timings.get("cache_n") if isinstance(timings, Mapping) else None
        return _usage(answer["tokens_evaluated"], cached, answer.get("tokens_predicted"))
    return None


def _usage(prompt: Any, cached: Any, generated: Any) -> Usage | None:
    if not _is_count(prompt):
        return None
    return Usage(prompt, min(cached, prompt) if _is_count(cached) else 0, generated if _is_count(generated) else 0)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_TOKENS
