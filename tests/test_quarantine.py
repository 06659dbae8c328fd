"""The evidence against samples, and what of it outlives a session."""

from __future__ import annotations

import json

import pytest

from harness.core.errors import RunDirError
from harness.results.quarantine import NAME, Ending, Quarantine, Trial
from harness.results.store import RunStore


@pytest.fixture
def store(tmp_path):
    store = RunStore(str(tmp_path / "run"))
    store.create()
    return store


def trial(process, ending=Ending.DIED):
    return Trial("u", process, ending, "segfault")


def types(quarantine, *samples):
    return [(verdict.sample, verdict.error_type) for verdict in quarantine.verdicts(samples)]


def test_two_processes_put_a_sample_out_and_one_process_twice_does_not(store):
    quarantine = Quarantine(store)
    assert not quarantine.add("a", trial("host/1"))
    assert not quarantine.add("a", trial("host/1"))
    assert quarantine.suspects == {"a"}
    assert quarantine.add("a", trial("host/2"))
    assert quarantine.suspects == set()
    assert types(quarantine, "b", "a") == [("a", "ReplicaDied")]


def test_verdicts_suspicions_and_careful_units_are_remembered(store):
    first = Quarantine(store)
    first.add("../weird \u202e id", trial("host/1"))
    first.add("../weird \u202e id", trial("host/2"))
    first.add("b", trial("host/3"))
    first.mark("unit")
    again = Quarantine(store)
    assert types(again, "../weird \u202e id", "b") == [("../weird \u202e id", "ReplicaDied")]
    assert again.suspects == {"b"}
    assert again.is_careful("unit")
    again.clear(["b", "../weird \u202e id"])
    again.unmark(["unit"])
    last = Quarantine(store)
    assert last.suspects == set() and not last.is_careful("unit")
    assert types(last, "../weird \u202e id", "b") == [("../weird \u202e id", "ReplicaDied")], "a verdict is not cleared"


def test_what_may_pass_is_told_from_what_stays(store):
    quarantine = Quarantine(store)
    for sample, ending in (("a", Ending.DIED), ("b", Ending.MEMORY), ("c", Ending.HUNG)):
        quarantine.add(sample, trial("host/1"))
        quarantine.add(sample, trial("host/2", ending))
    assert types(quarantine, *"abc") == [("a", "ReplicaDied"), ("b", "MemoryKill"), ("c", "TimeLimit")]
    quarantine.forget_passing()
    assert types(Quarantine(store), *"abc") == [("a", "ReplicaDied")]
    quarantine.forget_all()
    assert types(Quarantine(store), *"abc") == []


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"samples": [], "units": []}',
        '{"samples": {"a": [{"unit": "u"}]}, "units": []}',
        '{"samples": {}, "units": [1]}',
        '{"samples": {"a": [{"unit": "u", "process": 1, "ending": "died", "cause": ""}]}, "units": []}',
        '{"format": 5, "samples": {}, "units": []}',
        "no json",
    ],
)
def test_a_damaged_file_is_refused_in_one_line(store, text):
    store.write_bytes(NAME, text.encode())
    with pytest.raises(RunDirError, match=r"quarantine\.json' (is damaged|has the format 5)"):
        Quarantine(store)


def test_the_file_says_what_its_description_says(store):
    quarantine = Quarantine(store)
    quarantine.add("a", trial("host/1"))
    quarantine.mark("u")
    assert json.loads(store.read_bytes(NAME)) == {
        "format": 4,
        "samples": {"a": [{"unit": "u", "process": "host/1", "ending": "died", "cause": "segfault"}]},
        "units": ["u"],
    }
