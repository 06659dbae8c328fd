"""The speed that is aimed at on one H100, and what a run found of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Steps = Mapping[str, Any]
"""Entries of `tests.gpu.results.Results` by step."""


@dataclass(frozen=True)
class Goal:
    """One figure.

    Attributes:
        name, aim: as they are shown.
        found: the figure from all steps; raises KeyError where it was not measured.
        least: the figure must not be below; None where `most` bounds it.
        shown: format of the figure.
    """

    name: str
    aim: str
    found: Callable[[Steps], float]
    shown: str
    least: float | None = None
    most: float | None = None

    def measure(self, steps: Steps) -> float | None:
        """The figure, or None where it was not measured."""
        try:
            return float(self.found(steps))
        except (KeyError, TypeError):
            return None

    def met(self, figure: float) -> bool:
        """Whether a figure reaches the goal."""
        return (self.least is None or figure >= self.least) and (self.most is None or figure <= self.most)


def _chosen(steps: Steps, step: str, name: str) -> float:
    """A figure of the grid with the kernel that the engine chose."""
    found = steps[step]["found"]
    figure: float = found[found["chosen"]][name]
    return figure


def _memory(steps: Steps) -> float:
    """The prediction's largest distance from what was measured."""
    distances = [abs(entry["off"]) for entry in steps["memory"]["found"].values()]
    if not distances:
        raise KeyError("memory")
    return max(distances)


def _decoded(steps: Steps, other: str) -> float:
    """This project's new tokens per second over another's."""
    found = steps["decoding"]["found"]
    figure: float = found["this project"]["new tokens/s"] / found[other]["new tokens/s"]
    return figure


GOALS = (
    Goal("GPT-NeoX 1.3B, prompts/s", "at least 8,000",
         lambda s: _chosen(s, "lecture 1.3b", "prompts/s"), "{:,.0f}", 8000),
    Goal("its share of the unique-token limit", "at least 60%",
         lambda s: _chosen(s, "lecture 1.3b", "of the limit"), "{:.0%}", 0.6),
    Goal("8B Llama shape, prompts/s", "at least 1,300",
         lambda s: _chosen(s, "lecture 8b", "prompts/s"), "{:,.0f}", 1300),
    Goal("times `generate_batch`, pages of 256", "at least 3",
         lambda s: s["generate_batch"]["found"]["pages of 256"]["behind"], "{:.1f}", 3),
    Goal("times `generate_batch`, pages of 16", "at least 1.3",
         lambda s: s["generate_batch"]["found"]["pages of 16"]["behind"], "{:.1f}", 1.3),
    Goal("times the notebook loop", "at least 150",
         lambda s: s["contenders"]["found"]["notebook loop"]["behind"], "{:.0f}", 150),
    Goal("times lm-evaluation-harness", "at least 15",
         lambda s: s["contenders"]["found"]["lm-evaluation-harness"]["behind"], "{:.0f}", 15),
    Goal("computed / unique tokens", "at most 1.02",
         lambda s: _chosen(s, "lecture 1.3b", "computed/unique"), "{:.3f}", None, 1.02),
    Goal("the same, where reviews share no accidental beginnings", "at most 1.02",
         lambda s: _chosen(s, "lecture 1.3b", "computed/least"), "{:.3f}", None, 1.02),
    Goal("memory's peak against the prediction", "within 15%", _memory, "{:.0%}", None, 0.15),
    Goal("decoding against `generate_batch`, pages of 256", "at least as fast",
         lambda s: _decoded(s, "generate_batch, pages of 256"), "{:.1f} x", 1),
    Goal("decoding against `generate_batch`, pages of 16", "at least as fast",
         lambda s: _decoded(s, "generate_batch, pages of 16"), "{:.1f} x", 1),
    Goal("decoding against the loop", "at least 5 x", lambda s: _decoded(s, "loop"), "{:.1f} x", 5),
)  # fmt: skip
