"""What was found, in one JSON file that is whole after every step."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OK, SKIPPED, RUNNING = "ok", "skipped", "running"
WRONG, FAILED, TOO_LONG, DIED, NO_TIME = "wrong", "failed", "too long", "died", "no time left"


class Results:
    """Steps by name: state, reason, seconds, figures found. Threads may share it.

    Args:
        file: written after every change.
        machine: what the results are of.
    """

    def __init__(self, file: Path, machine: Mapping[str, Any]) -> None:
        self.file = file
        self.found: dict[str, Any] = {"machine": dict(machine), "steps": {}}
        self._lock = threading.Lock()
        file.parent.mkdir(parents=True, exist_ok=True)
        self._save()

    def update(self, step: str, **entry: Any) -> None:
        """Set parts of a step's entry; figures of `found` are added to those it has."""
        with self._lock:
            known = self.found["steps"].setdefault(step, {"found": {}})
            known["found"].update(entry.pop("found", {}))
            known.update(entry)
            self._save()

    @property
    def steps(self) -> dict[str, Any]:
        """Entries by step."""
        steps: dict[str, Any] = self.found["steps"]
        return steps

    @property
    def failures(self) -> list[str]:
        """Steps that did not end well."""
        return [name for name, entry in self.steps.items() if entry["state"] not in (OK, SKIPPED)]

    def _save(self) -> None:
        whole = self.file.with_suffix(".part")
        whole.write_text(json.dumps(self.found, indent=1, ensure_ascii=False), encoding="utf-8")
        whole.replace(self.file)
