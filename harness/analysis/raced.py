"""What a reader of a raced run must know: its strategies were scored on different samples, and not by chance."""

from __future__ import annotations

from collections.abc import Iterable

from harness.results.races import read_races
from harness.results.store import RunStore


def raced_note(run_dir: str, n_attempted: Iterable[int]) -> str | None:
    """Which figures of a raced run are not comparable, and why.

    Args:
        run_dir: a run directory.
        n_attempted: samples with a record, of each of its strategies.

    Returns:
        None where there was no race, or where the full grid has been run since.
    """
    counts = sorted(set(n_attempted))
    races = read_races(RunStore(run_dir)) if len(counts) > 1 else []
    if not races:
        return None
    result = races[-1].get("result")
    found = result.get("claim") if isinstance(result, dict) else None
    what = f"What holds: {found}" if found else "The race is not over: harness race goes on with it."
    return (
        f"a race scored these strategies on {counts[0]:,} to {counts[-1]:,} samples, more the better they did: means "
        "over different samples are not comparable, and intervals and p-values, which take samples as chosen "
        f"beforehand, do not hold. {what} harness run computes the rest of the grid"
    )
