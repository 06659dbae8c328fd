"""The decisions of races, kept in the run directory: what a race that is resumed must come to again."""

from __future__ import annotations

from typing import Any

from harness.core.errors import RunDirError
from harness.results.store import RunStore

NAME = "race.json"


def read_races(store: RunStore) -> list[dict[str, Any]]:
    """All races of a run directory, the one that went on last comes last; empty where there was none.

    Raises:
        RunDirError: damaged.
    """
    if not store.exists(NAME):
        return []
    found = store.read_json(NAME)
    races = found.get("races") if isinstance(found, dict) else None
    if not isinstance(races, list) or not all(
        isinstance(race, dict) and isinstance(race.get("key"), str) and isinstance(race.get("rounds"), list)
        for race in races
    ):
        raise RunDirError(f"'{store.run_dir}/{NAME}' is damaged; move it away: the race decides again by its records")
    return races


class RaceLog:
    """One race's decisions, as they are stored.

    Args:
        store: of the run directory.
        entry: what tells the race from others, `key` among it, and what readers should know of it.
    """

    def __init__(self, store: RunStore, entry: dict[str, Any]) -> None:
        self._store = store
        races = read_races(store)
        before = [race["rounds"] for race in races if race["key"] == entry["key"]]
        self._others = [race for race in races if race["key"] != entry["key"]]
        self._before: list[dict[str, Any]] = before[0] if before else []
        self.entry: dict[str, Any] = {**entry, "rounds": []}

    def decided(self, decision: dict[str, Any]) -> None:
        """Keep what was decided after a round, or hold it against what was decided before.

        Raises:
            RunDirError: it was decided otherwise.
        """
        place = len(self.entry["rounds"])
        if place < len(self._before) and self._before[place] != decision:
            raise RunDirError(
                f"the race in '{self._store.run_dir}' comes to another decision after {decision['step']:,} steps than "
                f"before: its records have changed (failed samples computed again?), or {NAME} has; race anew with "
                f"another race.seed=..., or move {NAME} away to let these records decide"
            )
        self.entry["rounds"].append(decision)
        if place >= len(self._before):
            self._write()

    def finish(self, result: dict[str, Any]) -> None:
        """Keep how the race ended."""
        self.entry["result"] = result
        self._write()

    def _write(self) -> None:
        self._store.write_json(NAME, {"races": [*self._others, self.entry]})
