"""Models with names: what `models` takes, what it refuses, and that name, place and identity are three things."""

from __future__ import annotations

import shutil

import pytest

from harness import load_records, run
from harness.analysis.summary import summarise
from harness.config.loading import config_from, load_config
from harness.config.schema import ModelEntry
from harness.core.errors import ConfigError, RunDirError
from harness.planning.preparation import prepare
from harness.planning.report import make_report
from harness.planning.units import make_plan
from harness.reporting.report.build import write_report
from harness.results.store import RunStore
from harness.running.audit import audit
from tests.conftest import DEMO, KO_TINY

FAKE = "tests.fake_engine:ENGINE"
SMALL = {
    "task": {"data_dir": str(DEMO), "limit": 8},
    "grid": {"templates": ["good_bad"], "k": [0, 2], "seeds": [1]},
    "cluster": {"address": "inline"},
}


def named(*models, **sections):
    return config_from({**SMALL, "models": list(models), **sections})


PLAIN = {"name": "plain", "path": str(KO_TINY), "dtype": "float32"}
HALF = {"name": "half", "path": str(KO_TINY), "dtype": "bfloat16", "max_length": 300}


def test_an_entry_takes_from_model_what_it_does_not_say():
    config = named(PLAIN, {"path": "other", "engine": FAKE}, model={"dtype": "float16", "device": "cpu"})
    assert config.entries == (
        ModelEntry(str(KO_TINY), "plain", dtype="float32", device="cpu"),
        ModelEntry("other", "other", dtype="float16", device="cpu", engine=FAKE),
    )
    assert config.model.path is None
    assert config_from(config.as_dict()) == config, "a manifest's configuration is one"


def test_models_may_be_given_on_the_command_line(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    given = ["model.path=null", "models=[{name: a, path: '~/x'}, {name: b, path: y, max_length: 9}]"]
    config = load_config("configs/demo.yaml", given)
    assert [(e.name, e.path, e.max_length) for e in config.entries] == [("a", "/home/someone/x", None), ("b", "y", 9)]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([PLAIN, {**HALF, "name": "plain"}], r"models names a model twice: \['plain', 'plain'\]; expected each"),
        ([PLAIN, {"path": "plain"}], "models names a model twice"),
        ([{"name": "a"}], r"models\[0\] has no path, expected keys such as"),
        (["folder"], r"models\[0\] is 'folder', expected keys such as"),
        ([PLAIN, {"path": "a", "dtyp": "auto"}], r"unknown configuration key 'models\[1\].dtyp'; did you mean 'dtype'"),
        ([{"path": "a", "dtype": "float31"}], r"models\[0\].dtype is 'float31'; did you mean 'float32'"),
        ([{"path": "a", "device": "gpu"}], r"models\[0\].device is 'gpu'"),
        ([{"path": "a", "max_length": "long"}], r"'models\[0\].max_length' holds 'long', expected a whole number or n"),
        ([{"path": "a", "max_length": 0}], r"models\[0\].max_length is 0, expected at least 1"),
        ([{"path": "a", "gpus_per_replica": 0}], r"models\[0\].gpus_per_replica is 0.0, expected more than 0"),
        ([{"path": "a", "name": " "}], r"models\[0\].name is ' ', expected text"),
        ([{"path": "a", "name": None}], r"'models\[0\].name' holds None, expected text"),
        ([{"path": ["a"]}], r"'models\[0\].path' holds \['a'\], expected text"),
        ([{"path": "a", "revision": "${oc.env:HOME}"}], "uses a resolver"),
        ([{"path": "a", "name": "x\ny"}], r"models\[0\].name is 'x\\ny', expected text without control"),
        ("folder", "'models' holds folder, expected a list"),
    ],
)
def test_entries_that_no_run_can_have_are_refused(models, message):
    with pytest.raises(ConfigError, match=message):
        config_from({**SMALL, "models": models})


def test_models_in_two_places_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"models and model.path='x' are both given.*set model\.path=null"):
        named(PLAIN, model={"path": "x"})
    with pytest.raises(ConfigError, match="are both given"):
        load_config("configs/demo.yaml", ["models=[{path: y}]"])
    with pytest.raises(ConfigError, match=r"model\.path is None, expected a folder name"):
        config_from({**SMALL, "model": {"path": None}})


def test_an_engine_that_nobody_registered_is_refused_by_its_name():
    with pytest.raises(ConfigError, match="no engine 'locl'; did you mean 'local'"):
        prepare(named(PLAIN, {**HALF, "engine": "locl"}))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A run of one model under two names and number formats, and of a fake one."""
    out = tmp_path_factory.mktemp("named")
    place = shutil.copytree(KO_TINY, out / "model")
    fake = {"name": "fake", "path": str(KO_TINY), "engine": FAKE}
    models = [{**PLAIN, "path": str(place)}, {**HALF, "path": str(place)}, fake]
    config = named(*models, out=str(out), name="three")
    return config, run(config)


def test_records_tables_and_reports_show_the_names(three, tmp_path):
    config, result = three
    records = load_records(result.run_dir)
    assert list(dict.fromkeys(records["model"])) == sorted(["plain", "half", "fake"])
    assert records["error"].isna().all()
    assert list(dict.fromkeys(summarise(result.run_dir)["model"])) == ["plain", "half", "fake"], "in the order given"
    manifest = RunStore(result.run_dir).read_json("manifest.json")
    assert {name: engine["dtype"] for name, engine in manifest["engines"].items()} == {
        "plain": "float32", "half": "bfloat16", "fake": "float32",
    }  # fmt: skip
    assert set(manifest["weights"]) == set(manifest["n_pool"]) == set(manifest["identity"]["models"])
    page = write_report([result.run_dir], str(tmp_path / "page.html")).read_text(encoding="utf-8")
    assert all(name in page for name in ("plain", "half", "fake"))
    lengths = {length.model: length.context_length for length in make_report(config).lengths}
    assert (lengths["half"], lengths["fake"]) == (300, None)


def test_each_model_computes_as_it_does_alone(three, tmp_path):
    config, result = three
    alone = run(named(config.as_dict()["models"][0], out=str(tmp_path), name="alone"))
    both = load_records(result.run_dir)
    assert load_records(alone.run_dir).equals(both[both["model"] == "plain"].reset_index(drop=True))


def test_a_model_that_moves_under_its_name_is_the_same(three, tmp_path):
    config, result = three
    moved = shutil.copytree(config.entries[0].path, tmp_path / "elsewhere")
    models = [{**model, "path": str(moved)} for model in config.as_dict()["models"][:2]]
    elsewhere = named(*models, config.as_dict()["models"][2], out=config.out, name="three")
    assert {unit.id for unit in make_plan(prepare(elsewhere), 8).units} == {
        unit.id for unit in make_plan(prepare(config), 8).units
    }
    before = RunStore(result.run_dir).part_ids()
    run(elsewhere)
    assert RunStore(result.run_dir).part_ids() == before


def test_another_number_format_under_a_name_is_another_model(three):
    config, _ = three
    models = [{**model, "dtype": "float16"} for model in config.as_dict()["models"]]
    with pytest.raises(RunDirError, match=r"model_settings\.plain\.dtype was 'float32', now 'float16'"):
        run(named(*models, out=config.out, name="three"))


def test_an_audit_takes_each_model_as_it_is_named(tmp_path):
    report = audit(named(PLAIN, HALF, out=str(tmp_path)), 2)
    assert [(a.model, a.alone.largest == 0) for a in report.templates] == [("plain", True), ("half", False)]


def test_a_run_of_paths_is_what_it_was_before_there_were_names(tmp_path):
    by_path = config_from({**SMALL, "model": {"path": str(KO_TINY), "dtype": "float32"}})
    by_name = named({**PLAIN, "name": "x"})
    units = [[unit.id for unit in make_plan(prepare(config), 8).units] for config in (by_path, by_name)]
    assert units[0] == units[1], "a name is no part of what a model computes"
    assert by_path.model_names == (str(KO_TINY),)
