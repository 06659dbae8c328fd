"""The fuzz tests take the inputs that were asked for, all of them."""

import re
from pathlib import Path

import pytest

from tests.fuzz.inputs import SHARES


def test_the_shares_are_those_of_the_tests_and_add_up_to_one():
    texts = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    named = [name for text in texts for name in re.findall(r'^@share\("(.+)"\)$', text, re.MULTILINE)]
    assert sorted(named) == sorted(SHARES)
    assert sum(SHARES.values()) == pytest.approx(1.0)
