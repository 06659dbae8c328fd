"""What a loaded engine says of itself; importable without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.engine.protocol import EngineFacts


@dataclass(frozen=True)
class LocalFacts(EngineFacts):
    """For log and manifest."""

    tokens_per_pack: int = 0
    sharing_notice: str | None = None
    """Why prefixes are not shared although that was asked for."""
    threads: int = 0
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

    @property
    def notices(self) -> Sequence[str]:
        """Why prefixes are not shared, or attention is slow, where it is so."""
        sharing = self.sharing_notice and f"it is scored without shared prefixes: {self.sharing_notice}"
        return [notice for notice in (sharing, self.attention_notice) if notice]

    def __str__(self) -> str:
        sharing = "shared prefixes" if self.shares_prefixes else "every prompt by itself"
        words = f"{self.device}, {self.dtype}, {self.threads} threads, {sharing}, {self.tokens_per_pack} tokens a pack"
        if self.attention_seconds:
            words += f", {self.attention} attention, warm after {self.warmup_s:.0f} s"
        if self.compiled_layers:
            words += f" ({self.compile_s:.0f} s to compile {self.compiled_layers} layers)"
        return words
