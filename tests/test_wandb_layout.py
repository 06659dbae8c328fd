"""`harness wandb`: a report on several grids is saved with its presets, without a click."""

import json
import shutil
import sys

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.config.loading import load_config
from harness.core.errors import ConfigError, RunDirError
from harness.reporting.tracking.layout import DRAWN_BY, preset_name, save_report, specification
from harness.running.driver import run
from tests.fake_wandb_server import ENTITY, PROJECT, FakeWandb, serving
from tests.test_tracking import KEY, environment  # noqa: F401


def copied(folder, to, mode):
    """A run directory under another name, with what its manifest says of W&B."""
    shutil.copytree(folder, to)
    path = to / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["config"] |= {"name": to.name, "wandb": {**manifest["config"]["wandb"], "mode": mode}}
    manifest["tracking_id"] = f"id-of-{to.name}"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return str(to)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    small = ["task.limit=4", "grid.templates=[lecture_1,english]", "grid.k=[0,1]", "grid.seeds=[1]"]
    return run(load_config("configs/demo.yaml", [*small, f"out={out}", "name=plain", "cluster.address=inline"])).run_dir


@pytest.fixture(scope="module")
def runs(plain, tmp_path_factory):
    """Two runs that were logged."""
    folder = tmp_path_factory.mktemp("logged")
    return [copied(plain, folder / "first", "online"), copied(plain, folder / "second", "offline")]


@pytest.fixture
def server(environment):  # noqa: F811
    with serving(FakeWandb()) as state:
        environment.setenv("WANDB_BASE_URL", state.url)
        yield state


def panels(view):
    (grid,) = [block for block in json.loads(view["spec"])["blocks"] if block["type"] == "panel-grid"]
    return grid["metadata"]["panelBankSectionConfig"]["panels"], grid["metadata"]["runSets"]


def test_one_command_saves_presets_and_a_report_on_both_runs(runs, server):
    done = CliRunner().invoke(app, ["wandb", *runs])
    assert done.exit_code == 0, done.output
    (view,) = server.views
    assert done.stdout.splitlines()[-1].startswith("http") and PROJECT in done.stdout
    assert (view["entityName"], view["projectName"]) == (ENTITY, PROJECT)
    assert "first and second" in view["displayName"]
    assert {made["chartName"]: json.loads(made["spec"]) for made in server.presets} == {
        preset_name(name): specification(name) for name in DRAWN_BY.values()
    }
    shown, (run_set,) = panels(view)
    assert '"value": ["id-of-first", "id-of-second"]' in json.dumps(run_set["filters"])
    drawn = {panel["config"]["panelDefId"]: panel["config"] for panel in shown if panel["viewType"] == "Vega2"}
    assert set(drawn) == {f"{ENTITY}/{preset_name(name)}" for name in DRAWN_BY.values()}
    against_k = drawn[f"{ENTITY}/{preset_name('against_k')}"]
    assert against_k["fieldSettings"] == {"step": "k", "lineKey": "strategy", "lineVal": "accuracy"}
    assert '"against_k_table"' in json.dumps(against_k["userQuery"])


def test_a_preset_that_is_edited_has_another_name(monkeypatch):
    before = preset_name("heatmap")
    monkeypatch.setattr("harness.reporting.tracking.layout.specification", lambda name: {"mark": "bar"})
    assert preset_name("heatmap") != before


def test_a_run_that_was_not_logged_is_refused(runs, plain):
    with pytest.raises(RunDirError, match=r"was not logged to W&B, expected a run with wandb.mode=online"):
        save_report([runs[0], plain])


def test_a_server_that_refuses_ends_in_one_line(runs, server):
    server.fault = "refuse"
    with pytest.raises(ConfigError, match=r"W&B does not take the report: .*WANDB_API_KEY") as refused:
        save_report(runs)
    assert "\n" not in str(refused.value) and KEY not in str(refused.value)


def test_a_missing_package_is_named(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(ConfigError, match=r"pip install 'prompt-grid-harness\[wandb-reports\]'"):
        save_report(runs)
