"""What a run knows of samples that end or hang their process: `quarantine.json`.

Remembers evidence over sessions and gives verdicts; refuses to know how processes are watched. Only what fails by
itself, twice, on two processes, is out: whatever else ended a process is cleared by the next try. Where processes
also end without a sample that is out, somebody may be ending them, and more of them are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from harness.core.errors import RunDirError
from harness.results import layout
from harness.results.store import RunStore

NAME = "quarantine.json"
PROCESSES = 2
"""Processes that a sample must have ended, tried by itself, to be out."""
MOST_MORE = 3
"""How many more, at most, a second look asks for: one for each process that somebody else has ended."""


class Ending(StrEnum):
    """How a process came to its end."""

    DIED = "died"
    """By itself, or by somebody's hand: nobody can tell."""
    MEMORY = "memory"
    """Ray's memory monitor ended it."""
    NODE = "node"
    """Its node went away."""
    HUNG = "hung"
    """It took too long and was ended."""


@dataclass(frozen=True)
class Trial:
    """A process that ended while it tried one sample by itself."""

    unit: str
    process: str
    """Host and process id."""
    ending: Ending
    cause: str


@dataclass(frozen=True)
class Verdict:
    """A sample that is recorded as failed and not tried."""

    sample: str
    error_type: str
    error: str


class Quarantine:
    """The evidence against samples, and the units to be taken sample by sample.

    Args:
        store: of the run directory; None keeps all in memory.

    Raises:
        RunDirError: `quarantine.json` is damaged.
    """

    def __init__(self, store: RunStore | None = None) -> None:
        self._store = store
        self._trials: dict[str, list[Trial]] = {}
        self._careful: set[str] = set()
        self._other_deaths = 0
        self._wanted: dict[str, int] = {}
        """Processes that samples must have ended that are looked at again."""
        if store is not None and store.exists(NAME):
            self._read(store)

    @property
    def suspects(self) -> set[str]:
        """Samples that have ended a process by themselves, but not yet enough of them."""
        return {sample for sample in self._trials if not self.is_out(sample)}

    @property
    def doubted(self) -> frozenset[str]:
        """Samples that are out for ending processes, although others have ended processes too."""
        wanted = PROCESSES + min(MOST_MORE, self._other_deaths)
        return frozenset(
            sample
            for sample, trials in self._trials.items()
            if self.is_out(sample) and _error_type(trials) == REPLICA_DIED and _processes(trials) < wanted
        )

    def look_again(self) -> frozenset[str]:
        """Those that were doubted are suspects again, and must end a process more for each that others have ended."""
        doubted = self.doubted
        self._wanted |= dict.fromkeys(doubted, PROCESSES + min(MOST_MORE, self._other_deaths))
        return doubted

    def count_other_deaths(self, n: int) -> None:
        """So many processes ended, and no sample that is out was the cause."""
        if n:
            self._other_deaths += n
            self._write()

    def is_out(self, sample: str) -> bool:
        """Whether a sample is recorded as failed and not tried."""
        wanted = self._wanted.get(sample, PROCESSES)
        return sample in self._trials and _processes(self._trials[sample]) >= wanted

    def verdicts(self, samples: Iterable[str]) -> tuple[Verdict, ...]:
        """Those of the samples that are out, in their order."""
        return tuple(_verdict(sample, self._trials[sample]) for sample in samples if self.is_out(sample))

    def add(self, sample: str, trial: Trial) -> bool:
        """Take down a trial; whether the sample is out now."""
        self._trials.setdefault(sample, []).append(trial)
        self._write()
        return self.is_out(sample)

    def clear(self, samples: Collection[str]) -> None:
        """Drop the evidence against samples that came through by themselves: others ended those processes."""
        cleared = self.suspects.intersection(samples)
        dead = {t.process for sample in cleared for t in self._trials[sample] if t.ending is Ending.DIED}
        self._other_deaths += len(dead)
        self._forget(lambda sample, trials: sample in cleared)

    def forget_passing(self) -> None:
        """Drop what may pass by itself: those samples are tried again."""
        self._forget(lambda sample, trials: _error_type(trials) in PASSING)

    def forget_all(self) -> None:
        """Drop everything."""
        self._careful, self._other_deaths = set(), 0
        self._forget(lambda sample, trials: True)
        self._write()

    def is_careful(self, unit: str) -> bool:
        """Whether a unit is to be taken sample by sample."""
        return unit in self._careful

    def mark(self, unit: str) -> None:
        """Take a unit sample by sample from now on."""
        if unit not in self._careful:
            self._careful.add(unit)
            self._write()

    def unmark(self, units: Collection[str]) -> None:
        """These units are done, or what ended their processes is known."""
        if self._careful.intersection(units):
            self._careful.difference_update(units)
            self._write()

    def _forget(self, is_dropped: Callable[[str, list[Trial]], bool]) -> None:
        kept = {sample: trials for sample, trials in self._trials.items() if not is_dropped(sample, trials)}
        if len(kept) < len(self._trials):
            self._trials = kept
            self._write()

    def _read(self, store: RunStore) -> None:
        document: Any = store.read_json(NAME)
        if fault := layout.QUARANTINE(document, "it"):
            raise RunDirError(
                f"'{store.run_dir}/{NAME}' is damaged: {fault.replace('it.', '', 1)}; remove it (samples that end "
                f"their process are found again) or {store.anew()}"
            )
        for sample, trials in document["samples"].items():
            self._trials[sample] = [Trial(t["unit"], t["process"], Ending(t["ending"]), t["cause"]) for t in trials]
        self._careful = set(document["units"])
        self._other_deaths = document.get("other_deaths", 0)

    def _write(self) -> None:
        if self._store is None:
            return
        samples = {sample: [asdict(trial) for trial in trials] for sample, trials in self._trials.items()}
        document = {"samples": samples, "units": sorted(self._careful), "other_deaths": self._other_deaths}
        self._store.write_json(NAME, {"format": layout.FORMAT, **document})


OUT_OF_MEMORY, MEMORY_KILL, TIME_LIMIT = "OutOfMemoryError", "MemoryKill", "TimeLimit"
REQUEST_FAILED = "RequestError"
REPLICA_DIED = "ReplicaDied"
PASSING = frozenset({OUT_OF_MEMORY, "MemoryError", MEMORY_KILL, TIME_LIMIT, REQUEST_FAILED})
"""Types of errors that may pass by themselves: resuming tries their samples again."""


def _processes(trials: Collection[Trial]) -> int:
    return len({trial.process for trial in trials})


def _error_type(trials: Collection[Trial]) -> str:
    endings = {trial.ending for trial in trials}
    if Ending.HUNG in endings:
        return TIME_LIMIT
    return MEMORY_KILL if Ending.MEMORY in endings else REPLICA_DIED


_WORDS = {
    TIME_LIMIT: "this sample did not come to an end by itself",
    MEMORY_KILL: "this sample took so much memory by itself that Ray's memory monitor ended its process",
    REPLICA_DIED: "this sample ends its process when it is tried by itself",
}


def _verdict(sample: str, trials: Collection[Trial]) -> Verdict:
    kind = _error_type(trials)
    where = ", ".join(dict.fromkeys(trial.process for trial in trials))
    return Verdict(sample, kind, f"{_WORDS[kind]} ({where}); last: {list(trials)[-1].cause}"[:500])
