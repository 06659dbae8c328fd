"""What a loaded engine says of itself; importable without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class EngineFacts:
    """For log and manifest."""

    device: str
    dtype: str
    tokens_per_pack: int
    shares_prefixes: bool
    sharing_notice: str | None
    """Why prefixes are not shared although that was asked for."""
    threads: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def __str__(self) -> str:
        sharing = "shared prefixes" if self.shares_prefixes else "every prompt by itself"
        return f"{self.device}, {self.dtype}, {self.threads} threads, {sharing}, {self.tokens_per_pack} tokens a pack"
