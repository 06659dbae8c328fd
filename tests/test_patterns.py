"""Regular expressions from configurations and run directories: what they find, or one line in time."""

import threading
import time

import pytest

from harness.core import patterns
from harness.core.errors import ConfigError
from harness.core.patterns import found_in
from tests.simulated_runs import answered_run
from tests.test_damaged_runs import edit
from tests.told import call, refused

ENDLESS = "(?:(?:.{0,9}){9}){9}\\Z가"
"""On a dozen letters already."""


def elsewhere(work):
    """What something gives, or raises, in another thread."""
    found = []

    def run():
        try:
            found.append(work())
        except ConfigError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_a_pattern_finds_the_same_in_any_thread():
    texts, pattern = ["정답: 가, 정답: 나", "없음", ""], r"정답:\s*(\S)"
    assert found_in(texts, pattern, "k") == [["가", "나"], [], []]
    assert elsewhere(lambda: found_in(texts, pattern, "k")) == [["가", "나"], [], []]
    assert found_in(["ab"], "(x)?b", "k") == [[""]]


def test_a_pattern_that_takes_for_ever_is_told_in_any_thread(monkeypatch):
    monkeypatch.setattr(patterns, "MOST_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"which takes more than 0\.3 s"):
        found_in(["a" * 60], "(a+)+b", "k")
    assert "which takes more than" in str(elsewhere(lambda: found_in(["a" * 60], "(a+)+b", "k")))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("pattern", ["(", ENDLESS, "a{99999999999}", "(?P<1>a)"])
def test_the_pattern_of_somebodys_run_directory_ends_in_one_line(tmp_path, monkeypatch, pattern):
    monkeypatch.setattr(patterns, "MOST_SECONDS", 0.3)
    path = answered_run(tmp_path / "run", n=6)
    edit(path, lambda it: it["config"].update(scoring={"metrics": ["same_text"], "extract": pattern}))
    refused(
        call("show", path),
        "scoring.extract is",
        "which takes more than" if pattern == ENDLESS else "expected a regular expression",
    )
