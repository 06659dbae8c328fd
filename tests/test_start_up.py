"""What a verb imports, which is what it takes to start: kept by names, since seconds depend on the machine."""

import gc
import json
import subprocess
import sys

import pytest

from harness.config.loading import config_from
from harness.core import entry_points
from harness.core.collecting import START, collect_after_start
from harness.core.task import registered_tasks
from harness.results import manifest
from tests.analysis.test_comparing import write_run
from tests.analysis.test_recommendation import cell

HEAVY = ("numpy", "pandas", "pyarrow", "scipy.special", "sklearn", "torch", "transformers", "ray", "omegaconf", "wandb")


def imported_by(*words):
    """Which of `HEAVY` a command has imported when it is over, and how often garbage was looked for meanwhile."""
    code = (
        "import atexit, gc, json, sys\n"
        "made = lambda: sum(one['collections'] for one in gc.get_stats())\n"
        f"found = lambda: [[n for n in {HEAVY} if n in sys.modules], made() - before, gc.get_freeze_count()]\n"
        "atexit.register(lambda: print(json.dumps(found()), file=sys.stderr))\n"
        f"sys.argv = ['harness', *{words}]\n"
        "from harness.cli import main\n"
        "before = made()\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout
    names, collections, frozen = json.loads(done.stderr.splitlines()[-1])
    assert collections == 0
    assert frozen > 1000, "the interpreter would search all modules once more when it ends"
    return set(names)


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("--version",)])
def test_help_waits_for_nothing(words):
    assert imported_by(*words) == set()


def test_showing_a_run_needs_neither_models_nor_statistics(tmp_path):
    run_dir = write_run(tmp_path / "run", cell("a", 90, 60) + cell("b", 80, 60))
    assert imported_by("show", run_dir) == {"numpy", "pandas", "pyarrow"}


WORKERS = """
import sys
import harness.running.opening
from harness.analysis.race_cost import race_cost
from harness.analysis.race_rules import Rules
race_cost(3, 100, Rules(), None)
print(*[name for name in sys.modules if name in ("scipy.stats", "scipy.optimize")])
"""


def test_neither_workers_nor_plans_import_what_few_runs_need():
    done = subprocess.run([sys.executable, "-c", WORKERS], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.fixture
def thresholds():
    gc.collect(0)  # a command of an earlier test may have put its first collection off
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)


def test_the_first_collection_is_late_and_all_others_as_before(thresholds):
    collect_after_start()
    collect_after_start()
    assert gc.get_threshold() == (START, *thresholds[1:])
    gc.collect(0)
    assert gc.get_threshold() == thresholds
    gc.collect(0)
    assert gc.get_threshold() == thresholds


def test_thresholds_that_a_model_sets_meanwhile_stay(thresholds):
    collect_after_start()
    gc.set_threshold(50_000)
    gc.collect(0)
    assert gc.get_threshold()[0] == 50_000


def test_the_files_of_distributions_are_read_once(monkeypatch):
    read = []
    monkeypatch.setattr(entry_points, "entry_points", lambda group: read.append(group) or ())
    monkeypatch.setattr(manifest, "version", lambda name: read.append(name) or "1")
    entry_points.installed.cache_clear()
    manifest._version.cache_clear()
    try:
        for _ in range(2):
            registered_tasks()
            manifest.new_session()
        assert sorted(read) == sorted(["harness.tasks", *manifest.PACKAGES])
        monkeypatch.syspath_prepend("elsewhere")
        registered_tasks()
        assert read[-1] == "harness.tasks"
    finally:
        entry_points.installed.cache_clear()
        manifest._version.cache_clear()


def test_one_configuration_changes_no_other():
    one = config_from({"grid": {"k": [0, 4]}})
    one.grid.k.append(7)
    one.grid.templates.append("more")
    assert config_from({"grid": {"k": [0, 4]}}).grid.k == [0, 4]
    assert config_from({}).grid.templates == config_from({}).grid.templates != one.grid.templates
