"""How many tokens an answer says that it took, in each dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
        details = usage.get("prompt_tokens_details") or {}
        return _usage(usage.get("prompt_tokens"), details.get("cached_tokens"), usage.get("completion_tokens"))
    if isinstance(meta, Mapping):
        return _usage(meta.get("prompt_tokens"), meta.get("cached_tokens"), meta.get("completion_tokens"))
    if "tokens_evaluated" in answer:
        timings = answer.get("timings") or {}
        return _usage(answer["tokens_evaluated"], timings.get("cache_n"), answer.get("tokens_predicted"))
    return None


def _usage(prompt: Any, cached: Any, generated: Any) -> Usage | None:
    if not isinstance(prompt, int):
        return None
    return Usage(prompt, cached if isinstance(cached, int) else 0, generated if isinstance(generated, int) else 0)
