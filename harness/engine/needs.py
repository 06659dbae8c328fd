"""What a model takes to work for a grid: a replica's memory, or requests to a server. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What a replica computes, as the plan of one template knows it.

    Attributes:
        longest_prompt: tokens.
        unit_tokens_unique: tokens of a unit when every shared one is computed once.
        unit_tokens: tokens of all prompts of a unit.
        prompts_per_unique_token: prompts read per token of a unit that is computed when shared ones are once.
        prompts_per_token: prompts read per token of a unit.
        generates: whether answers are generated.
    """

    longest_prompt: int
    unit_tokens_unique: int
    unit_tokens: int
    prompts_per_unique_token: float
    prompts_per_token: float
    generates: bool


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes at a replica's peak, by what they hold."""

    weights: int
    head: int
    """Copy of the head, or of a part of it, in higher precision."""
    pack: int
    """Activations of one layer over a pack."""
    kept: int
    """Keys and values of shared trunks, of all layers."""
    logits: int
    remembered: int
    """The first layer's results per token."""
    host: int
    """The process itself and its prompts; on a GPU what lies beside the allocations for tensors."""
    loading: int = 0
    """All together while a CPU loads weights: with those of the files, where the formats differ."""

    @property
    def total(self) -> int:
        """All together, at work or while loading."""
        return max(self.working, self.loading)

    @property
    def working(self) -> int:
        """All together at work."""
        return self.weights + self.head + self.pack + self.kept + self.logits + self.remembered + self.host


@dataclass(frozen=True)
class ReplicaMemory:
    """Predicted peak memory of one replica."""

    model: str
    device: str
    """`cpu` or `cuda`."""
    dtype: str
    tokens_per_pack: int
    need: MemoryNeed


@dataclass(frozen=True)
class Asked:
    """What one template of a grid asks of a model.

    Attributes:
        prompts: that are scored or continued.
        prompt_tokens: of all of them together, labels left out.
        label_tokens: of each label; none where answers are generated.
        answer_tokens: most tokens of an answer; 0 where labels are compared.
    """

    prompts: int
    prompt_tokens: int
    label_tokens: Sequence[int]
    answer_tokens: int


@dataclass(frozen=True)
class Expense:
    """What a grid asks of a server, before any request: at least and at most, as its ways to score differ.

    Attributes:
        model: by which records call it.
        address: of the server.
        requests: number of requests.
        input_tokens: that are sent.
        output_tokens: that are generated.
        cost: at the prices given; None without prices.
        limit: `model.max_cost`.
        unchecked: what cannot be checked before, or at all.
    """

    model: str
    address: str
    requests: tuple[int, int]
    input_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    cost: tuple[float, float] | None
    limit: float | None
    unchecked: tuple[str, ...] = ()
