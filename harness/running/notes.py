"""What the last session's process noted of what it tried: evidence where the process came to its end over it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from harness.planning.units import WorkUnit
from harness.results.quarantine import Quarantine, Trial
from harness.results.store import RunStore
from harness.running.ledger import Ledger
from harness.running.messages import Handling, Note, is_note, note_name, read_note
from harness.running.precautions import Precautions

log = logging.getLogger(__name__)


def note_of(store: RunStore, unit: WorkUnit) -> Note | None:
    """What was noted last of a unit."""
    return read_note(store, unit.id)


def take_notes(store: RunStore, ledger: Ledger, quarantine: Quarantine, session: Mapping[str, Any] | None) -> None:
    """Take down what a driver tried that was its own replica and came to its end over it; once. Remove all notes.

    Args:
        store: of the run directory.
        ledger: of the run.
        quarantine: takes the evidence.
        session: the last one before this.
    """
    names = store.files()
    noted = [(unit, read_note(store, unit.id)) for unit in ledger.units if note_name(unit.id) in names]
    if session is not None and not session["ended"]:
        _judge_notes(ledger, quarantine, session, noted)
    for name in names:
        if is_note(name):
            store.remove(name)


def _judge_notes(
    ledger: Ledger, quarantine: Quarantine, session: Mapping[str, Any], noted: list[tuple[WorkUnit, Note | None]]
) -> None:
    process = f"{session.get('host')}/{session.get('pid')}"
    precautions = Precautions([[sample.id for sample in shard.samples] for shard in ledger.work.shards], quarantine)
    precautions.expect(ledger.units)
    notes = [(unit, note) for unit, note in noted if note is not None and note.process == process]
    # Where units overlap, the first was under way; if one behind it was the cause, the next time tells.
    for unit, note in notes[:1]:
        if note.sample is None:
            log.warning("the last session ended in unit %s: it is taken sample by sample", unit.id)
            precautions.died(unit)
        else:
            log.warning("the last session ended at sample %s by itself", note.sample)
            trial = Trial(unit.id, process, note.ending, "the process of an inline run came to its end")
            precautions.failed_alone(unit, precautions.handling(unit) or Handling(), note.sample, trial)
