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
        '{"samples": {}, "units": [], "other_deaths": -1}',
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
        "other_deaths": 0,
    }


def test_a_sample_that_came_through_shows_that_others_end_processes(store):
    quarantine = Quarantine(store)
    quarantine.add("a", trial("host/1"))
    quarantine.add("a", trial("host/2"))
    assert quarantine.doubted == set()
    quarantine.add("b", trial("host/3"))
    quarantine.clear(["b", "c"])
    assert quarantine.doubted == {"a"} == Quarantine(store).doubted
    assert types(quarantine, "a") == [("a", "ReplicaDied")], "it stays out until it is looked at again"


def test_a_second_look_asks_for_a_process_more_for_each_that_others_have_ended(store):
    quarantine = Quarantine(store)
    for process in ("host/1", "host/2"):
        quarantine.add("a", trial(process))
    quarantine.count_other_deaths(2)
    assert quarantine.look_again() == {"a"} == quarantine.suspects
    assert [quarantine.add("a", trial(f"host/{n}")) for n in (3, 4)] == [False, True]
    assert Quarantine(store).doubted == set(), "four processes, and others ended two"
    quarantine.count_other_deaths(100)
    assert quarantine.look_again() == {"a"}
    assert quarantine.add("a", trial("host/5"))
    assert quarantine.doubted == set(), "five are enough, whoever kills"


def test_what_came_through_at_the_second_look_is_out_no_more(store):
    quarantine = Quarantine(store)
    for process in ("host/1", "host/2"):
        quarantine.add("a", trial(process))
    quarantine.count_other_deaths(1)
    quarantine.look_again()
    quarantine.clear(["a"])
    assert types(quarantine, "a") == [] and Quarantine(store).suspects == set()


@pytest.mark.parametrize("ending", [Ending.MEMORY, Ending.HUNG])
def test_what_ended_for_memory_or_time_is_not_doubted(store, ending):
    quarantine = Quarantine(store)
    for process in ("host/1", "host/2"):
        quarantine.add("a", trial(process, ending))
    quarantine.count_other_deaths(3)
    assert quarantine.doubted == set()


def test_a_file_of_an_earlier_version_counts_no_other_deaths(store):
    store.write_bytes(NAME, b'{"format": 3, "samples": {}, "units": []}')
    assert Quarantine(store).doubted == set()
