"""How many deaths while loading a node is given."""

from __future__ import annotations

import pytest

from harness.cluster.load_deaths import LoadDeaths
from harness.results.quarantine import Ending

DIED, MEMORY, NODE, BROKEN = Ending.DIED, Ending.MEMORY, Ending.NODE, None


def ask(deaths, endings):
    return [deaths.died("here", ending) for ending in endings]


@pytest.mark.parametrize("ending", [DIED, MEMORY, NODE, BROKEN])
def test_a_node_that_has_loaded_nothing_is_given_three(ending):
    assert ask(LoadDeaths(), [ending] * 3) == [None, None, 3]


def test_where_the_model_has_loaded_it_is_given_ten():
    deaths = LoadDeaths()
    deaths.loaded("here")
    assert ask(deaths, [DIED] * 10) == [None] * 9 + [10]


@pytest.mark.parametrize("ending", [MEMORY, NODE, BROKEN])
def test_want_of_memory_and_broken_devices_do_not_go_away(ending):
    deaths = LoadDeaths()
    deaths.loaded("here")
    assert ask(deaths, [DIED] * 5 + [ending] * 3) == [None] * 7 + [3]


def test_a_model_that_loads_begins_the_count_anew():
    deaths = LoadDeaths()
    ask(deaths, [DIED, DIED])
    deaths.loaded("here")
    assert ask(deaths, [MEMORY, MEMORY]) == [None, None]
    assert deaths.died("elsewhere", DIED) is None


def test_nodes_are_counted_each_for_itself():
    deaths = LoadDeaths()
    deaths.loaded("elsewhere")
    assert [deaths.died(node, DIED) for node in ("here", "elsewhere", "here", "elsewhere", "here")] == [None] * 4 + [3]
