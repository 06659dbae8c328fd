"""Rotary positions that switch with the length of a sequence, so that prompts share nothing across a switch.

LongRoPE takes other frequencies for all tokens of a sequence that is longer than the model was first
trained on; dynamic NTK takes frequencies of their own for every such length, and keeps the last ones. In
transformers the longest sequence of a batch decides for all. Here a prompt gets what it gets by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.engine.local.transformers_internals import forget_longest, rotary_caches, text_config

_ONCE, _EVER = frozenset({"longrope", "su"}), "dynamic"
MARGIN = 64
"""Tokens that a prompt may be longer than predicted."""


class Regimes:
    """The lengths at which a model's positions change.

    Args:
        model: a transformers model.
    """

    def __init__(self, model: Any) -> None:
        kinds = dict(_kinds(text_config(model.config)))
        self.limit: int | None = min(kinds.values(), default=None)
        """Longest sequence with the positions that short ones have; None where none is too long."""
        self._each_length = _EVER in kinds
        self._caching = rotary_caches(model) if kinds else []

    def differ_within(self, longest: int) -> bool:
        """Whether sequences of up to so many tokens have positions of more than one kind."""
        return self.limit is not None and longest > self.limit

    def of(self, length: int, grows_by: int = 0) -> int:
        """Sequences of one regime may be computed in one batch.

        Args:
            length: tokens of a sequence.
            grows_by: most tokens that will be added to it.
        """
        if self.limit is None or length + grows_by <= self.limit:
            return 0
        return length if self._each_length or grows_by else 1

    def begin(self) -> None:
        """Forget the frequencies that an earlier, longer sequence left behind."""
        for module in self._caching:
            forget_longest(module)


def _kinds(config: Any) -> Iterator[tuple[str, int]]:
    """Kind of switching rotation, and the longest sequence before the switch."""
    most = getattr(config, "max_position_embeddings", None) or getattr(config, "seq_length", None)
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [value for value in settings.values() if isinstance(value, Mapping)]
    for one in nested or [settings]:
        kind = str(one.get("rope_type") or one.get("type") or "")
        limit = one.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
        limit = limit or most
        if limit is not None and (kind in _ONCE or _EVER in kind):
            yield _EVER if _EVER in kind else kind, int(limit)
    if getattr(config, "use_dynamic_ntk", False) and getattr(config, "seq_length", None):
        yield _EVER, int(config.seq_length)
