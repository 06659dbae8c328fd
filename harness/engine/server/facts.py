"""What is known of a server once it has answered, for log and manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.engine.protocol import EngineFacts

SAME_WITHIN = 0.05
"""Nats that the log-probabilities of one text may differ by from session to session: servers do not repeat exactly."""


@dataclass(frozen=True)
class ServerFacts(EngineFacts):
    """See `harness.engine.protocol.EngineFacts`."""

    address: str = ""
    served_name: str = ""
    scoring: str = ""
    """Name of the way in which labels are scored; empty where answers are generated."""
    writing: str = ""
    """Name of the way in which answers are generated; empty where labels are scored."""
    words: str = ""
    """The way in words."""
    sends: str = "ids"
    """`ids`, or `text` where the tokenizer is not known or the server takes chats alone."""
    said: Mapping[str, str] = field(default_factory=dict)
    """What the server says of itself: model, fingerprint, version."""
    probe: Sequence[float] = ()
    """Log-probabilities of a text that every session asks for."""
    cannot_compare_by: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of `plain` prompts and of `chat`s, the ways to compare labels of different lengths
    (`harness.prompts.choices.SCORES`) for which it says too little."""
    remarks: Sequence[str] = ()
    """What could not be checked, or is not as expected."""

    @property
    def notices(self) -> Sequence[str]:
        """See `EngineFacts.notices`."""
        return self.remarks

    def change_since(self, before: Mapping[str, Any]) -> tuple[str, str, str] | None:
        """See `EngineFacts.change_since`: the server's own words, how labels are scored, and what it computes."""
        remedy = "take the server that the run began with, or begin anew under another name=..."
        for key in ("scoring", "writing", "sends"):
            if before.get(key, getattr(self, key)) != getattr(self, key):
                return f"{key}={before[key]}", f"the server now allows {key}={getattr(self, key) or 'none'}", remedy
        said = _as_mapping(before.get("said"))
        for key in sorted(said.keys() | self.said.keys()):
            if said.get(key) != self.said.get(key):
                was, now = (one.get(key, "nothing") for one in (said, self.said))
                return f"a server whose {key} was '{was}'", f"the one at {self.address} now says '{now}'", remedy
        probed = before.get("probe")
        pairs = list(zip(probed if isinstance(probed, list | tuple) else (), self.probe, strict=False))
        largest = max((abs(a - b) for a, b in pairs if isinstance(a, int | float)), default=0.0)
        if largest > SAME_WITHIN:
            now = f"the one at {self.address} differs from it by {largest:.2g} nats on the same text"
            return "another model of the same name", now, remedy
        return None

    def __str__(self) -> str:
        said = ", ".join(f"{key} {value}" for key, value in self.said.items())
        return f"{self.address}, {self.words}, {self.sends} sent{f' ({said})' if said else ''}"


def _as_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
