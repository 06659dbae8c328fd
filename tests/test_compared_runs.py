"""Runs that mean different things by one name are said where both would be averaged into one strategy."""

import json

import pytest

from harness.analysis.compare import compare
from harness.results.manifest import NAME
from tests.simulated_runs import classified_run

SHARES = {("a", 0): 0.7, ("b", 0): 0.6}
TEXTS = [f"글 {n}" for n in range(24)]


def run_of(path, **changes):
    """A run whose identity is changed: dotted keys to values."""
    folder = classified_run(path, TEXTS, SHARES)
    manifest = json.loads((path / NAME).read_text(encoding="utf-8"))
    for key, value in changes.items():
        place = manifest["identity"]
        *parts, last = key.split("__")
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    (path / NAME).write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"templates__a__prefix": "다른 말: "}, "template 'a' is another one in 'two' than in 'one'"),
        ({"models__m": {"model.safetensors": "f" * 32}}, "model 'm' is another one in 'two' than in 'one'"),
        ({"pool": "f" * 32}, "the pool of demonstrations differs between 'two' and 'one'"),
        ({"demos": {"policy": "per_sample"}}, "demos differs between 'two' and 'one'"),
    ],
)
def test_what_two_runs_call_alike_is_averaged_with_a_word(tmp_path, change, said):
    one = run_of(tmp_path / "one", models__m={"model.safetensors": "0" * 32}, pool="0" * 32, demos={"policy": "fixed"})
    same = {"models__m": {"model.safetensors": "0" * 32}, "pool": "0" * 32, "demos": {"policy": "fixed"}}
    two = run_of(tmp_path / "two", **{**same, **change})
    found = [line for line in compare([one, two], by=["template"]).warnings if "are averaged" in line]
    assert found == [f"{said}, and both are averaged; compare with --by run,..."]
    # Where each run is a strategy by itself nothing is mixed.
    for by in ([], ["run", "template"]):
        assert not any("are averaged" in line for line in compare([one, two], by=by).warnings)
    equal = run_of(tmp_path / "three", **same)
    assert not any("are averaged" in line for line in compare([one, equal], by=["template"]).warnings)
