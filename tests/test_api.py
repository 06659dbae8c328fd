"""The verbs as functions: what `from harness import ...` gives."""

import pytest
import yaml

import harness
from harness import calibrate, compare, load_records, load_samples, plan, race, report, run
from harness.config.loading import load_config
from harness.core.errors import ConfigError
from tests.conftest import REPO

SMALL = ["task.limit=40", "grid.templates=[lecture_1,good_bad]", "grid.k=[0,2]", "grid.seeds=[1]",
         "cluster.address=inline"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("api")
    return run(REPO / "configs" / "demo.yaml", [*SMALL, f"out={out}", "name=small"])


def test_everything_is_exported():
    for name in harness.__all__:
        assert getattr(harness, name) is not None


def test_compare_takes_one_run_or_several(finished):
    one = compare(finished.run_dir, by=["template", "k"])
    assert one.best in set(one.strategies["label"])
    assert len(one.strategies) == 4
    assert compare([finished.run_dir], by=["template", "k"]).strategies.equals(one.strategies)


def test_calibrate_and_report_are_those_of_the_command_line(finished, tmp_path):
    assert calibrate(finished.run_dir) is not None
    assert report(finished.run_dir, str(tmp_path / "r.html")).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_records_come_with_their_texts(finished):
    bare, full = load_records(finished.run_dir), load_records(finished.run_dir, text=True)
    samples = load_samples(finished.run_dir).set_index("sample_id")
    assert len(samples) == 40
    assert full[bare.columns].equals(bare)
    assert (full["document"] == samples.loc[full["sample_id"], "document"].to_numpy()).all()
    assert not [name for name in full.columns if name.endswith(("_x", "_y"))]
    narrow = load_records(finished.run_dir, ["sample_id", "prediction"], text=True)
    assert {"gold", "document"} <= set(narrow.columns)
    with pytest.raises(ConfigError, match="expected sample_id among them"):
        load_records(finished.run_dir, ["prediction"], text=True)


@pytest.mark.parametrize("kind", ["path", "text", "keys", "object"])
def test_a_configuration_is_a_path_keys_or_an_object(kind):
    path = REPO / "configs" / "demo.yaml"
    given = {"path": path, "text": str(path), "keys": yaml.safe_load(path.read_text(encoding="utf-8")),
             "object": load_config(path, SMALL)}[kind]  # fmt: skip
    assert plan(given, () if kind == "object" else SMALL).prompts == 4 * 40


def test_keys_are_checked_and_left_as_they_are():
    given = {"task": {"limit": 40}}
    with pytest.raises(ConfigError, match=r"unknown configuration key 'limit'; did you mean 'task\.limit'"):
        plan({**given, "limit": 3})
    plan(given, SMALL)
    assert given == {"task": {"limit": 40}}


def test_overrides_of_a_finished_object_are_refused():
    with pytest.raises(ConfigError, match=r"overrides .* are for a file or keys and values"):
        plan(load_config(REPO / "configs" / "demo.yaml"), ["task.limit=1"])


def test_a_race_goes_on_from_the_grid(finished):
    result = race(REPO / "configs" / "demo.yaml", [*SMALL, f"out={finished.run_dir.rsplit('/', 1)[0]}", "name=small",
                                                   "race.holdout=8"])  # fmt: skip
    assert result.claim
    assert result.winner in {"lecture_1 K=0", "lecture_1 K=2", "good_bad K=0", "good_bad K=2"}
