"""What a loaded engine says of itself; importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
    attention: str = "parts"
    """Kernel of the shared attention: `parts`, `cascade` or `flex`."""
    attention_notice: str | None = None
    """Why a GPU computes it in plain operations."""
    attention_seconds: Mapping[str, float] = field(default_factory=dict)
    """Of the kernels that were timed: one layer's attention over two packs."""
    warmup_s: float = 0.0
    """Seconds between loaded weights and readiness: compiling, choosing the kernel, the parity check."""
    packed_weights: int = 0
    """Linear maps whose weights are laid out for oneDNN's products."""

    compiled_layers: int = 0
    """Middle layers that run through `torch.compile`."""
    compile_notice: str | None = None
    """Why a GPU runs none so."""
    compile_s: float = 0.0
    """Seconds of the warm-up that compiling them took."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def __str__(self) -> str:
        sharing = "shared prefixes" if self.shares_prefixes else "every prompt by itself"
        words = f"{self.device}, {self.dtype}, {self.threads} threads, {sharing}, {self.tokens_per_pack} tokens a pack"
        if self.attention_seconds:
            words += f", {self.attention} attention, warm after {self.warmup_s:.0f} s"
        if self.compiled_layers:
            words += f" ({self.compile_s:.0f} s to compile {self.compiled_layers} layers)"
        return words
