"""Who may import whom: the rooms of the house, read from the source."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import harness
from harness.core.places import SOURCE
from harness.core.task import registered_tasks

REPO = Path(__file__).resolve().parents[1]
SOURCES = sorted([*REPO.glob("harness/**/*.py"), *REPO.glob("tasks/**/*.py")])
TRAINER = "tasks/train_ko_tiny.py"


def name_of(path):
    return path.relative_to(REPO).as_posix()


def imported_modules(path):
    """Full names of all modules that a file imports, wherever in the file and for whatever purpose."""
    found = set()
    package = list(path.relative_to(REPO).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


IMPORTS = {name_of(path): imported_modules(path) for path in SOURCES}


def importers(package):
    """Files that import a package or anything below it."""
    return {
        file
        for file, modules in IMPORTS.items()
        if any(module == package or module.startswith(f"{package}.") for module in modules)
    }


def in_room(files, room):
    return {file for file in files if file.startswith(room)}


def test_the_reader_of_imports_sees_every_form(tmp_path, monkeypatch):
    source = "import a.b as c\nfrom d import e\ndef f():\n    from . import g\n    from ..h import i\n"
    path = REPO / "harness" / "room" / "module.py"
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: source)
    assert imported_modules(path) == {"a.b", "d", "d.e", "harness.room", "harness.room.g", "harness.h", "harness.h.i"}


def test_ray_stays_in_the_cluster_room():
    files = importers("ray")
    assert files, "nobody imports ray: the test looks in the wrong place"
    assert files == in_room(files, "harness/cluster/")


def test_torch_stays_in_the_local_engine():
    files = importers("torch") - {TRAINER}
    assert files
    assert files == in_room(files, "harness/engine/local/")


def test_the_local_engine_is_reached_through_the_registry():
    files = importers("harness.engine.local")
    assert files
    assert files == in_room(files, "harness/engine/local/")


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_the_doors_of_engines_know_no_engine(package):
    doors = {file for file in in_room(IMPORTS, "harness/engine/") if file.count("/") == 2}
    assert {"harness/engine/protocol.py", "harness/engine/registry.py"} <= doors
    assert importers(package) & doors == set()


def test_vllm_stays_in_its_engine():
    files = importers("vllm")
    assert files
    assert files == in_room(files, "harness/engine/vllm/")


def test_wandb_stays_in_the_tracking_room():
    files = importers("wandb")
    assert files
    assert files == in_room(files, "harness/reporting/tracking/")


def test_omegaconf_stays_in_the_configuration():
    assert importers("omegaconf") == {"harness/config/loading.py"}


def test_the_harness_never_imports_tasks():
    assert in_room(importers("tasks"), "harness/") == set()


@pytest.mark.parametrize("package", ["torch", "ray", "harness.engine"])
@pytest.mark.parametrize("room", ["harness/results/", "harness/analysis/", "harness/prompts/", "harness/reporting/"])
def test_what_is_read_back_needs_neither_models_nor_a_cluster(room, package):
    assert in_room(IMPORTS, room)
    assert in_room(importers(package), room) == set()


@pytest.mark.parametrize("package", ["harness.prompts", "harness.planning", "harness.running", "tasks", "pandas"])
def test_the_engine_knows_no_text_and_no_tasks(package):
    assert in_room(importers(package), "harness/engine/") == set()


@pytest.mark.parametrize("package", ["torch", "ray", "harness.engine", "harness.cluster"])
def test_tasks_know_neither_models_nor_a_cluster(package):
    assert in_room(importers(package), "tasks/") - {TRAINER} == set()


@pytest.mark.parametrize("package", ["torch", "harness.cluster", "harness.running"])
def test_planning_reaches_no_model_and_no_cluster(package):
    assert in_room(IMPORTS, "harness/planning/")
    assert in_room(importers(package), "harness/planning/") == set()


PACKAGING = {"__init__.py", "__main__.py", "__pycache__", "py.typed"}


def test_the_folder_list_is_short_enough_to_teach():
    assert len({path.name for path in (REPO / "harness").iterdir()} - PACKAGING) <= 12


MOST_LINES = 350


def test_no_module_is_too_long_to_read_at_once():
    inside = [REPO / file for file in IMPORTS if file.startswith("harness/")]
    sizes = {str(path.relative_to(REPO)): len(path.read_text(encoding="utf-8").splitlines()) for path in inside}
    assert {file: size for file, size in sizes.items() if size > MOST_LINES} == {}


def test_the_places_that_the_architecture_page_names_exist():
    page = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("## Where to change what")[2].partition("##")[0]
    places = re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?)`", table)
    assert len(places) > 10
    assert [place for place in places if not any((REPO / top / place).exists() for top in ("", "harness"))] == []


def test_no_room_is_most_of_the_house():
    sizes = {file: len((REPO / file).read_text(encoding="utf-8").splitlines()) for file in IMPORTS}
    inside = {file: size for file, size in sizes.items() if file.startswith("harness/")}
    rooms = {file.split("/")[1] for file in inside}
    largest = max(sum(inside[file] for file in in_room(inside, f"harness/{room}")) for room in rooms)
    assert largest <= 0.3 * sum(inside.values())


def test_no_function_of_running_takes_more_than_six_parameters():
    trees = {name: ast.parse((REPO / name).read_text(encoding="utf-8")) for name in in_room(IMPORTS, "harness/running")}
    functions = [(n, f) for n, t in trees.items() for f in ast.walk(t) if isinstance(f, ast.FunctionDef)]
    counts = {
        f"{name}:{f.name}": sum(a.arg != "self" for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs))
        for name, f in functions
    }
    assert {name: n for name, n in counts.items() if n > 6} == {}


def loaded_after(statement):
    """Which of the heavy packages a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint([n for n in ('ray', 'torch', 'transformers', 'wandb') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stdout.strip().splitlines()[-1])


def test_importing_the_harness_is_light():
    assert loaded_after("import harness") == []


def test_planning_leaves_ray_out():
    """transformers' AutoConfig imports torch by itself, so torch is not asked for here."""
    loaded = loaded_after("import harness\nfrom harness.planning.report import make_report")
    assert "ray" not in loaded
    assert "wandb" not in loaded


def test_reading_records_back_leaves_models_and_cluster_out():
    assert loaded_after("from harness import load_records\nfrom harness.analysis.cells import cell_figures") == []


def test_exported_names():
    doors = {"calibrate", "compare", "load_records", "load_samples", "plan", "race", "report", "run"}
    task_authors = {
        "DataError", "ExportFormat", "LabelScores", "RemoteFile", "Sample", "Task", "TaskConfig", "TaskData",
    }  # fmt: skip
    assert set(harness.__all__) == doors | task_authors
    assert all(callable(getattr(harness, name)) for name in harness.__all__)


def test_the_interface_is_still_there_after_it_was_used():
    """No module of the package may take the place of the function of that name."""
    code = (
        "import harness\n"
        "options = ['task.limit=5', 'grid.k=[0]', 'grid.templates=[lecture_1]']\n"
        "harness.plan('configs/demo.yaml', options)\n"
        "import harness.planning.units\n"
        "print([n for n in harness.__all__ if not callable(getattr(harness, n))])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_source_tree_knows_its_tasks_without_being_installed(monkeypatch):
    assert (SOURCE / "harness" / "__init__.py").is_file()
    monkeypatch.setattr("harness.core.entry_points.installed", lambda group, path: [])
    assert registered_tasks()["nsmc"] == "tasks.nsmc:TASK"


def test_every_module_says_what_it_is():
    assert [f for f in IMPORTS if not ast.get_docstring(ast.parse((REPO / f).read_text(encoding="utf-8")))] == []
