"""A wheel carries all that a first run needs: it is built, unpacked, and used from an empty folder."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from harness import __version__
from harness.core import places
from tests.conftest import REPO

MOST_BYTES = 12_000_000
SHIPPED = ("data_in/korquad_demo", "data_in/models/ko-tiny", "data_in/nsmc_demo")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the unpacked wheel."""
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(place)]
    source = place / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("harness", "tasks", "configs", *SHIPPED):
        shutil.copytree(REPO / folder, source / folder, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source / name)
    done = subprocess.run([*build, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = place.glob("*.whl")
    assert wheel.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(wheel) as file:
        file.extractall(place / "site")
    return place / "site"


def harness(installed, folder, *arguments):
    """A verb of the unpacked package, from a folder that holds nothing of the repository."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"}
    command = [sys.executable, "-P", "-m", "harness", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_unpacked_package_is_the_one_that_runs(installed, tmp_path):
    code = "import harness, tasks; print(harness.__file__, tasks.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True)
    assert found.stdout.decode().split() == [str(installed / p / "__init__.py") for p in ("harness", "tasks")]


def test_the_demo_runs_in_an_empty_folder(installed, tmp_path):
    status, output, errors = harness(
        installed, tmp_path, "demo", "task.limit=8", "grid.templates=[lecture_1]", "grid.k=[0]",
        "cluster.address=inline",
    )  # fmt: skip
    assert status == 0, errors
    assert "8/8" in output
    assert [p.name for p in tmp_path.iterdir()] == ["data_out"]


def test_from_a_table_to_a_plan_and_a_report(installed, tmp_path):
    rows = [f"리뷰 {i}번 아주 {'좋아요' if i % 2 else '별로예요'},{'긍정' if i % 2 else '부정'}" for i in range(40)]
    (tmp_path / "reviews.csv").write_text("text,sentiment\n" + "\n".join(rows) + "\n", encoding="utf-8")
    status, _, errors = harness(installed, tmp_path, "init", "reviews.csv", "--label", "sentiment")
    assert status == 0, errors
    grid = next(p.name for p in tmp_path.glob("*_grid.yaml"))
    status, _, errors = harness(
        installed, tmp_path, "run", grid, "grid.k=[0]", "grid.seeds=[1]", "task.limit=6", "cluster.address=inline"
    )
    assert status == 0, errors
    run = next((tmp_path / "data_out").iterdir())
    status, _, errors = harness(installed, tmp_path, "report", str(run))
    assert status == 0, errors
    assert (run / "report.html").stat().st_size > 10_000


def test_version_and_help_have_their_short_forms(installed, tmp_path):
    assert harness(installed, tmp_path, "--version")[1] == f"harness {__version__}\n"
    assert harness(installed, tmp_path, "run", "-h")[1].startswith("Usage:")


def test_what_the_user_has_comes_before_what_came_with_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert places.found("configs/demo.yaml") == str(REPO / "configs" / "demo.yaml")
    own = tmp_path / "configs" / "demo.yaml"
    own.parent.mkdir()
    own.write_text("name: mine\n", encoding="utf-8")
    assert places.found("configs/demo.yaml") == "configs/demo.yaml"


@pytest.mark.parametrize(
    "path", ["configs", "data_in/../pyproject.toml", "pyproject.toml", "EleutherAI/polyglot", "/configs/demo.yaml"]
)
def test_nothing_else_is_looked_for_in_the_package(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert places.found(path) == path


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_module_of_the_users_that_hides_the_tasks_is_named(kind, tmp_path):
    own = tmp_path / ("tasks.py" if kind == "file" else "tasks/__init__.py")
    own.parent.mkdir(exist_ok=True)
    own.write_text("", encoding="utf-8")
    # An editable installation finds its modules whatever hides them.
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
        "from harness.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "plan", "configs/demo.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"'{own}' hides the package 'tasks' that came with harness; give it another name" in done.stderr
